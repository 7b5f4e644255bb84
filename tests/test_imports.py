"""The directions of import (pipeline/README.md): words <- diffusion <- models <- ... <- jobs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What each place may import: of this project, and of the libraries that the design rations.
FILE_STEPS = (
    *("read", "texts", "prepare", "picture_files", "finish"),
    *("output_keys", "write_part", "filter", "publish", "verify", "verify_members"),
)
ARRAY_STEPS = ("geometry", "composite")  # arrays in, arrays out: for steps of either kind
ALLOWED: dict[str, set[str]] = {
    "pipeline": set(),
    "pipeline.config": {"pipeline", "pipeline.config"},
    "pipeline.storage": {"pipeline", "pipeline.config", "pipeline.storage"},
    "pipeline.scores": {"pipeline.scores"},
    "pipeline.diffusion": {"pipeline.config", "pipeline.diffusion", "torch"},
    "pipeline.models": {
        *("pipeline.config", "pipeline.diffusion", "pipeline.models"),
        *("torch", "diffusers", "transformers"),
    },
    "pipeline.steps(arrays)": {"pipeline.config", "pipeline.scores", "pipeline.steps(arrays)"},
    "pipeline.steps(files)": {
        *("pipeline.config", "pipeline.storage", "pipeline.scores"),
        *("pipeline.steps(arrays)", "pipeline.steps(files)"),
    },
    "pipeline.steps(stages)": {
        *("pipeline.config", "pipeline.diffusion", "pipeline.models", "pipeline.steps(stages)"),
        *("pipeline.steps(arrays)", "torch"),
    },
    "pipeline.stages.build": {
        *("pipeline.config", "pipeline.diffusion", "pipeline.models", "pipeline.stages.build"),
        *("pipeline.steps(stages)", "torch"),
    },
    "pipeline.plan": {
        *(
            "pipeline",
            "pipeline.config",
            "pipeline.storage",
            "pipeline.models",
            "pipeline.stages.build",
        ),
        *("pipeline.scores", "pipeline.steps(files)", "pipeline.plan"),
    },
    "pipeline.report": {
        *("pipeline.config", "pipeline.storage", "pipeline.steps(files)", "pipeline.plan"),
        "pipeline.report",
    },
    "pipeline.mix": {
        *("pipeline.config", "pipeline.storage", "pipeline.steps(files)", "pipeline.plan"),
        "pipeline.mix",
    },
    "pipeline.demo": {
        *("pipeline.config", "pipeline.diffusion", "pipeline.models", "pipeline.stages.build"),
        *("pipeline.steps(stages)", "pipeline.scores", "pipeline.demo"),
        *("torch", "diffusers", "transformers"),
    },
    "pipeline.evaluation": {
        *("pipeline.config", "pipeline.storage", "pipeline.scores", "pipeline.steps(files)"),
        *("pipeline.steps(arrays)", "pipeline.models", "pipeline.demo", "pipeline.evaluation"),
    },
}
RATIONED = ("torch", "diffusers", "transformers", "ray")


def place_of(module: str) -> str:
    """The row of ALLOWED that a module of this project belongs to."""
    names = module.split(".")
    if names[:2] == ["pipeline", "steps"] and len(names) > 2:
        kind = "files" if names[2] in FILE_STEPS else "stages"
        return f"pipeline.steps({'arrays' if names[2] in ARRAY_STEPS else kind})"
    return ".".join(names[:2])


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def library_files() -> list[Path]:
    return sorted((ROOT / "pipeline").rglob("*.py"))


@pytest.mark.parametrize("path", library_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    """No file of the library imports what its place in the order forbids, Ray above all."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    allowed = ALLOWED[place_of(module)]
    for imported in imports_of(path):
        top = imported.split(".")[0]
        if top in RATIONED:
            assert top in allowed, f"{module} imports {imported}"
        if top in ("pipeline", "jobs"):
            target = place_of(imported)
            if target not in ALLOWED:  # a name of the package itself, e.g. its version
                target = "pipeline" if top == "pipeline" else top
            assert target in allowed, f"{module} imports {imported}"


def test_every_place_is_ruled() -> None:
    """A new package of the library needs a row in the table above."""
    packages = {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
    ruled = {name.split(".")[1].split("(")[0] for name in ALLOWED if "." in name}
    assert packages <= ruled | {"steps"}


def test_file_steps_load_without_torch() -> None:
    """Reading, writing and committing start without torch, and nothing of it comes in sideways."""
    steps = [
        name for name in FILE_STEPS + ARRAY_STEPS if (ROOT / f"pipeline/steps/{name}.py").is_file()
    ]
    assert steps
    code = "import sys, " + ", ".join(f"pipeline.steps.{name}" for name in steps)
    code += "; assert not {'torch', 'ray', 'diffusers'} & set(sys.modules), 'torch or ray came in'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_ray_workers_that_read_and_write_need_no_torch() -> None:
    """The graph's module is imported by every worker; only the actors of a stage load torch."""
    code = "import sys, jobs.edit.graph; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
