PYTHON ?= python3.11
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt
PYTEST := $(VENV)/bin/python -m pytest

.PHONY: demo test test-fast lint format wheel clean

## make demo: draw input shards, edit them with the bundled model, print where the pictures are
demo: $(VENV)/installed
	$(VENV)/bin/overpaint demo

## make test: everything that runs without a GPU; names the slowest tests
test: $(VENV)/installed-dev
	$(PYTEST) -m "not gpu" --durations=15

## make test-fast: without the tests that start Ray or build the wheel
test-fast: $(VENV)/installed-dev
	$(PYTEST) -m "not gpu and not slow"

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(VENV)/installed-dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

.PHONY: reference
## make reference: write configs/schema.json and the tables of configs/README.md anew
reference: $(VENV)/installed
	$(VENV)/bin/python -m pipeline.config.reference

wheel: $(VENV)/installed-dev
	$(VENV)/bin/python -m build --wheel

clean:
	rm -rf build dist runs/demo .pytest_cache .ruff_cache .mypy_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	@touch $@
