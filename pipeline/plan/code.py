"""Which code computes: a hash of the sources that decide the bytes of an output.

A version number does not serve: it stays while the code changes. The hash is of syntax trees
without docstrings, comments and layout: only a change of what is executed changes it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pipeline

# The packages whose code decides bytes; the others list, place, watch, show or measure.
PACKAGES = (
    *("config", "records", "storage", "images", "scores"),
    *("diffusion", "models", "stages", "steps", "execution"),
)
DIGITS = 12


class CodeDiffersError(RuntimeError):
    """A worker runs other code than the driver."""


@cache
def code_hash() -> str:
    """12 hexadecimal digits; the same on every machine with the same sources."""
    return hash_of(Path(pipeline.__file__).parent)


def hash_of(root: Path) -> str:
    """The hash of a folder that holds ``PACKAGES``."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            tree = ast.parse(path.read_text(encoding="utf-8"))
            digest.update(f"{name}\0{''.join(_written(tree))}\n".encode())
    return digest.hexdigest()[:DIGITS]


def check_same_code(driver: str) -> None:
    """To be called in a worker.

    Args:
        driver: the driver's hash.

    Raises:
        CodeDiffersError: this process has other sources.
    """
    if driver != code_hash():
        raise CodeDiffersError(
            f"this worker has the code {code_hash()} of Overpaint and the driver {driver}; install "
            "the same version on all nodes, or use overpaint submit, which sends its own"
        )


def _written(node: object) -> Iterator[str]:
    """A syntax tree as text: kinds and values, without positions, docstrings and empty fields.

    Not ``ast.dump``: later versions of Python add fields, which are empty for this code.
    """
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for field, value in ast.iter_fields(node):
            if field == "body" and isinstance(value, list):
                value = _without_docstring(node, value)
            if value not in (None, []) and field not in ("kind", "type_comment"):
                yield f" {field}="
                yield from _written(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            yield from _written(item)
            yield ","
        yield "]"
    else:
        yield repr(node)


def _without_docstring(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if not isinstance(node, documented) or ast.get_docstring(node, clean=False) is None:
        return body
    return body[1:]
