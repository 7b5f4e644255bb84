"""What is imported is declared, what is installed is fixed, and its licences are known."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from email.message import Message
from importlib.metadata import PackageMetadata, packages_distributions
from pathlib import Path
from typing import cast

import pytest
from packaging.requirements import Requirement

from infra.docker.lock import LOCK, lock_text, normalized, unconstrained
from infra.licences import installed, licences_of, unknown_licences

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OURS = {"pipeline", "jobs", "infra", "tests"}
# Extras that each folder may import from, and no others.
MAY_NEED = {
    "pipeline": ("s3", "train"),
    "jobs": ("cluster", "train"),
    "infra": ("train", "dev"),
    "tests": ("cluster", "s3", "train", "dev"),
}
PIN = re.compile(r"([\w.-]+)==(\S+)")


def names(requirements: list[str]) -> set[str]:
    return {normalized(Requirement(text).name) for text in requirements}


def imported(folder: str) -> Iterator[tuple[str, str]]:
    """(file, top module) of every import of another project, at the top or inside functions."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                if top not in OURS and top not in sys.stdlib_module_names:
                    yield str(path.relative_to(ROOT)), top


@pytest.mark.parametrize("folder", MAY_NEED)
def test_everything_imported_is_declared(folder: str) -> None:
    """Also what another library installs anyway: it may cease to."""
    declared = names(PROJECT["dependencies"])
    for extra in MAY_NEED[folder]:
        declared |= names(EXTRAS[extra])
    known = packages_distributions()
    undeclared = sorted(
        f"{file}: {module}"
        for file, module in set(imported(folder))
        if not {normalized(name) for name in known.get(module, [module])} & declared
    )
    assert undeclared == []


def pins(text: str) -> dict[str, str]:
    """Version by name."""
    return {normalized(name): version for name, version in PIN.findall(text)}


def test_everything_declared_has_a_version_in_the_constraints() -> None:
    """An installation with any extra is the one that the tests ran with."""
    fixed = pins((ROOT / "constraints.txt").read_text())
    declared = names(PROJECT["dependencies"])
    for extra in EXTRAS:
        declared |= names(EXTRAS[extra])
    assert sorted(declared - fixed.keys() - {"overpaint"}) == []


def test_the_lock_of_the_image_is_that_of_the_constraints() -> None:
    """Every file has its sha256, and every version is the one in constraints.txt."""
    text = LOCK.read_text()
    fixed, locked = pins((ROOT / "constraints.txt").read_text()), pins(text)
    assert locked.items() <= fixed.items()
    assert len(re.findall(r"^    --hash=sha256:[0-9a-f]{64}$", text, re.M)) == len(locked)
    needed = names(PROJECT["dependencies"]) | {"hatchling"}
    for extra in ("cluster", "s3", "gcs", "azure"):
        needed |= names(EXTRAS[extra])
    assert needed <= locked.keys()


def test_a_lock_names_what_the_constraints_lack() -> None:
    """A new library of a library is written into constraints.txt before it is locked."""
    file = {"archive_info": {"hashes": {"sha256": "ab" * 32}}}
    items = [
        {"metadata": {"name": name, "version": "1"}, "download_info": file}
        for name in ("Unheard.of", "torch")
    ]
    assert unconstrained(items) == ["Unheard.of==1"]
    assert f"unheard-of==1 \\\n    --hash=sha256:{'ab' * 32}\n" in lock_text(items)


def test_licences_are_known() -> None:
    """Those of everything that an installation with all extras needs, as far as it is here."""
    libraries = list(installed())
    assert len(libraries) > 60
    assert list(unknown_licences(libraries)) == []


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"License-Expression": "Apache-2.0 AND (MIT OR GPL-3.0-only)"}, {"GPL-3.0-ONLY"}),
        ({"License": "Proprietary\nall rights reserved"}, {"PROPRIETARY"}),
        ({"Classifier": "License :: OSI Approved :: GNU Affero GPL v3"}, {"GNU AFFERO GPL V3"}),
        ({}, set()),
    ],
)
def test_another_licence_is_named(fields: dict[str, str], names: set[str]) -> None:
    """In an expression, a text or a classifier; and so is a library that names none."""
    message = Message()
    for key, value in {"Name": "odd", "Version": "1", **fields}.items():
        message[key] = value
    metadata = cast(PackageMetadata, message)
    assert names <= licences_of(metadata)
    (line,) = unknown_licences([metadata])
    assert line.startswith("odd 1: ")


def test_no_code_of_a_model_is_run() -> None:
    """Every from_pretrained says so: some classes ask on the terminal otherwise."""
    calls, silent = 0, []
    for top in ("pipeline", "jobs"):
        for path in sorted((ROOT / top).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                if node.func.attr != "from_pretrained":
                    continue
                calls += 1
                said = [word.value for word in node.keywords if word.arg == "trust_remote_code"]
                if [ast.unparse(value) for value in said] != ["False"]:
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert calls > 15
    assert silent == []
