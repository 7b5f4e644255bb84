"""Reads the files in which an output describes itself. They may be damaged, or of a newer version.

A file is checked against the type that the code uses, so that nothing behind it meets a null, a
list or a number where a text is expected. Fields that this version does not know are ignored. Most
files hold their own sha256 in ``digest``, since a flipped bit can leave a value of the right type.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

Record = TypeVar("Record")
Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0, lt=1e15, allow_inf_nan=False)]  # seconds, images/s

BLANK, DIGEST = b'\n  "digest": ""', b'\n  "digest": "%b"'
OF_RUN = "restore it, or name another output.path"
OF_FILTERS = "restore it, or remove it and set the filters again with overpaint refilter"


class RunFileError(ValueError):
    """A file of an output cannot be used. The message names the file and says what to do."""

    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(name, reason, remedy)
        self.name, self.reason, self.remedy = name, reason, remedy

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}; {self.remedy}"


class NewerVersionError(RunFileError):
    """A newer version of Overpaint wrote the file."""


def parse_record(
    data: bytes, name: str, kind: type[Record], *, remedy: str, newest: int = 1
) -> Record:
    """A record from a file's JSON.

    Args:
        data: the file.
        name: of the file, for the error.
        kind: a dataclass.
        remedy: what to do about a damaged file.
        newest: the largest "version" that this code reads; a file without one has version 1.

    Raises:
        NewerVersionError: the file's version is larger.
        RunFileError: it is not JSON, is nested too deep, or a field is missing or of another type;
            or it has a digest, and is not what that says.
    """
    try:
        tree = from_json(data)  # refuses what is nested 200 levels deep
        check_version(tree, name, newest)
        found: Record = _adapter(cast(Hashable, kind)).validate_json(data, strict=True)
    except ValidationError as error:
        raise RunFileError(name, f"is damaged: {first_error(error)}", remedy) from None
    except RunFileError:
        raise
    except ValueError as error:
        raise RunFileError(name, f"is damaged: it is not JSON: {error}", remedy) from None
    digest = tree.get("digest") if isinstance(tree, dict) else None
    # Older versions wrote files without one.
    if isinstance(digest, str) and digest and not _is_sealed(data, digest.encode()):
        raise RunFileError(name, "is damaged: it is not what its digest says", remedy)
    return found


def to_json(tree: object, *, ascii_only: bool = False) -> bytes:
    """The content of a record's file: equal bytes for equal records."""
    return (json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=ascii_only) + "\n").encode()


def sealed_json(tree: dict[str, Any], *, ascii_only: bool = False) -> bytes:
    """``to_json`` with a field ``digest``: sha256 of the same file with "" in its place."""
    blank = to_json({**tree, "digest": ""}, ascii_only=ascii_only)
    return blank.replace(BLANK, DIGEST % _sha256(blank), 1)


def _is_sealed(data: bytes, digest: bytes) -> bool:
    return digest == _sha256(data.replace(DIGEST % digest, BLANK, 1))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def check_version(tree: object, name: str, newest: int) -> None:
    """Refuses a record of a version above ``newest``."""
    version = tree.get("version", 1) if isinstance(tree, dict) else 1
    if isinstance(version, int | float) and version > newest:
        reason = f"is of version {version}, and this version of Overpaint reads {newest} at most"
        raise NewerVersionError(name, reason, "use a newer overpaint")


def first_error(error: ValidationError) -> str:
    """The first of pydantic's errors in a line: the field, and what is wrong with it."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in found["loc"])
    message = found["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{place}: {message}" if place else message


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@dataclass(frozen=True)
class RunRecord:
    """``_run/run.json``: the fingerprint of an output, and what it is a hash of."""

    fingerprint: str
    inputs: dict[str, Any] = field(default_factory=dict)  # of the fingerprint
    model: str = "unknown"
    model_revision: str = "unknown"

    @property
    def code(self) -> str | None:
        """The hash of the code that computed the output, or the version that stood there before."""
        found = _at(self.inputs, "code", "overpaint")
        return found if isinstance(found, str) else None

    @property
    def threads(self) -> int | None:
        """The number of threads of an actor, on a CPU."""
        found = _at(self.inputs, "stages", "decode", "threads")
        return found if isinstance(found, int) and found >= 1 else None

    @property
    def dtype(self) -> str | None:
        """The dtype that the model was loaded in."""
        found = _at(self.inputs, "model", "dtype")
        return found if isinstance(found, str) else None


def parse_run(data: bytes, name: str) -> RunRecord:
    """Raises RunFileError."""
    return parse_record(data, name, RunRecord, remedy=OF_RUN)


@dataclass(frozen=True)
class FiltersRecord:
    """``_run/filters.json``: the filters in force, and whether all shards follow them yet."""

    filters: list[str]
    applied: bool


def parse_filters(data: bytes, name: str) -> FiltersRecord:
    """Raises RunFileError."""
    return parse_record(data, name, FiltersRecord, remedy=OF_FILTERS)


def _at(tree: object, *names: str) -> object:
    """The value at a place of nested mappings; None if there is none."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
