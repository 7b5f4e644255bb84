PYTHON ?= python3.11
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt
PYTEST := $(VENV)/bin/python -m pytest
# Two at a time, file by file (tests/scheduling.py), in the order of tests/conftest.py.
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all test-fast lint format wheel clean

## make demo: draw input shards, edit them with the bundled model, print where the pictures are
demo: $(VENV)/installed
	$(VENV)/bin/overpaint demo

## make test: what needs no GPU, without the long sweeps; names the slowest tests
test: $(VENV)/installed-dev
	$(PYTEST) $(PARALLEL) -m "not gpu and not sweep" --durations=15

## make test-all: the long sweeps too
test-all: $(VENV)/installed-dev
	$(PYTEST) $(PARALLEL) -m "not gpu" --durations=15

## make test-fast: without the tests that start Ray, a server or other processes
test-fast: $(VENV)/installed-dev
	$(PYTEST) $(PARALLEL) -m "not gpu and not sweep and not slow"

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

.PHONY: licences lock
## make licences: refuse libraries whose licence is not on the list of infra/licences.py
licences: $(VENV)/installed-dev
	$(VENV)/bin/python -m infra.licences

## make lock: write the lock file of the image anew; needs PyPI
lock: $(VENV)/installed-dev
	$(VENV)/bin/python -m infra.docker.lock

wheel: $(VENV)/installed-dev
	$(VENV)/bin/python -m build --wheel

clean:
	rm -rf build dist runs/demo .pytest_cache .ruff_cache .mypy_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/installed $@
