"""Imports between packages have one direction (drawn in pipeline/README.md) and no cycles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What each package may import: packages of this project, and the restricted libraries. A package
# may always import itself, and ``pipeline`` (the version).
ALLOWED: dict[str, set[str]] = {
    "pipeline": set(),
    "pipeline.process": set(),
    "pipeline.records": set(),
    "pipeline.config": {"records"},
    "pipeline.storage": {"process", "records"},
    "pipeline.scores": set(),
    "pipeline.images": {"records", "config"},
    "pipeline.diffusion": {"records", "torch"},
    "pipeline.models": {
        *("config", "process", "storage", "diffusion"),  # storage: downloads are retried alike
        *("torch", "diffusers", "transformers"),
    },
    "pipeline.stages": {
        *("records", "config", "process", "diffusion", "models", "images", "torch"),
    },
    "pipeline.steps": {"records", "config", "process", "storage", "scores", "images"},
    "pipeline.plan": {"records", "config", "process", "storage", "steps", "models"},
    "pipeline.sizing": {"records", "config", "storage", "steps", "plan", "models"},
    "pipeline.republish": {"records", "config", "storage", "steps", "plan"},
    "pipeline.execution": {
        *("records", "config", "process", "storage", "steps", "stages", "plan", "republish"),
    },
    "pipeline.editor": {
        *("records", "config", "process", "images", "steps", "plan", "execution", "torch"),
    },
    "pipeline.report": {"records", "config", "storage", "steps", "images", "plan"},
    "pipeline.mix": {"records", "config", "storage", "images", "steps", "plan", "republish"},
    "pipeline.pack": {"records", "config", "storage", "steps"},
    "pipeline.convert": {"config", "models", "torch", "diffusers", "transformers"},
    "pipeline.demo": {
        *("records", "config", "diffusion", "models", "stages", "scores"),
        *("torch", "diffusers", "transformers"),
    },
    "pipeline.evaluation": {
        *("records", "config", "storage", "scores", "steps", "images", "models", "demo"),
    },
    "jobs.supervise": {"jobs", "process", "ray"},
    "jobs.edit": {
        *("jobs", "jobs.supervise", "ray", "torch"),
        *(
            "records",
            "config",
            "process",
            "storage",
            "steps",
            "plan",
            "models",
            "stages",
            "execution",
        ),
        *("sizing", "republish", "report"),
    },
}
RESTRICTED = ("torch", "diffusers", "transformers", "ray")
# Packages for reading, writing and committing, which must load without torch, even indirectly.
WITHOUT_TORCH = (
    *("process", "records", "config", "storage", "scores", "images", "steps", "report", "mix"),
    *("pack", "republish", "plan", "sizing"),
)


def module_of(path: Path) -> str:
    """The dotted name of a file of this project."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {
    module_of(path): path
    for top in ("pipeline", "jobs", "infra")
    for path in sorted((ROOT / top).rglob("*.py"))
}


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(imported: str) -> str | None:
    """The module of this project that an imported name is or belongs to."""
    while imported and imported not in FILES:
        imported = imported.rpartition(".")[0]
    return imported or None


def package_of(module: str) -> str:
    """The package that a module is in: ``pipeline.steps.read`` is in ``pipeline.steps``."""
    package = ".".join(module.split(".")[:2])
    is_folder = (ROOT / package.replace(".", "/")).is_dir()
    return package if is_folder else package.split(".")[0]


@pytest.mark.parametrize(
    "module", [name for name in FILES if package_of(name) in ALLOWED], ids=lambda name: name
)
def test_imports_go_one_way(module: str) -> None:
    """No file imports what the table above forbids for its package, such as Ray."""
    package = package_of(module)
    allowed = ALLOWED[package] | {package, "pipeline"}
    for imported in imports_of(FILES[module]):
        top = imported.split(".")[0]
        if top in RESTRICTED:
            assert top in allowed, f"{module} imports {imported}"
        target = file_of(imported)
        if target is not None:
            name = package_of(target)
            assert {name, name.removeprefix("pipeline.")} & allowed, f"{module} imports {imported}"


def test_every_package_is_in_the_table() -> None:
    """A new package of the library needs a row in the table above."""
    assert {package_of(name) for name in FILES if name.startswith("pipeline")} == {
        name for name in ALLOWED if name.startswith("pipeline")
    }


def test_no_import_cycles() -> None:
    """There are no cycles, not even by imports inside functions or for types only."""
    graph = {
        name: {
            target
            for imported in imports_of(path)
            if (target := file_of(imported)) is not None and target != name
        }
        for name, path in FILES.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_files_of_the_graph_load_without_torch() -> None:
    """Workers that read, write and publish do not load torch; only a stage's actors do."""
    names = [name for name in FILES if name.split(".")[1:2] and name.split(".")[1] in WITHOUT_TORCH]
    assert names
    code = (
        f"import sys, {', '.join([*names, 'jobs.edit.graph'])}; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_library_needs_no_ray() -> None:
    """Every module of the library can be imported without Ray."""
    code = (
        "import sys; sys.modules['ray'] = None\n"
        f"import {', '.join(name for name in FILES if name.startswith('pipeline'))}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
