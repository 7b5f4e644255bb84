"""What an output records of itself is checked: damage and newer versions are named in a line."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field

import pytest

from pipeline.records.run_files import (
    Amount,
    Count,
    NewerVersionError,
    RunFileError,
    RunRecord,
    parse_record,
    parse_run,
)

DEEP = b"[" * 100_000 + b"]" * 100_000


@dataclass
class Example:
    """A record with each kind of field."""

    name: str
    counts: dict[str, Count]
    seconds: dict[str, Amount] = field(default_factory=dict)
    problem: str | None = None
    version: int = 1


def parse(data: bytes) -> Example:
    return parse_record(data, "out/_run/example.json", Example, remedy="remove it", newest=1)


def test_unknown_fields_are_ignored() -> None:
    """A later version may add fields that this one need not know."""
    found = parse(b'{"name": "a", "counts": {"x": 1}, "more": [1], "seconds": {"read": 2}}')
    assert found == Example("a", {"x": 1}, {"read": 2.0})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is not JSON"),
        (b'{"name"', "it is not JSON"),
        (b"null", "should be an object"),
        (b"[]", "should be an object"),
        (DEEP, "recursion limit"),
        (b"\xff{}", "it is not JSON"),
        (b'{"counts": {}}', "name: field required"),
        (b'{"name": null, "counts": {}}', "name: input should be a valid string"),
        (b'{"name": "\\ud800", "counts": {}}', "it is not JSON"),
        (b'{"name": "a", "counts": {"x": "1"}}', "counts.x: input should be a valid integer"),
        (b'{"name": "a", "counts": {"x": -1}}', "counts.x: input should be greater than"),
        (b'{"name": "a", "counts": {"x": 1' + b"0" * 30 + b"}}", "counts.x: "),
        (b'{"name": "a", "counts": {}, "seconds": {"x": NaN}}', "seconds.x: "),
        (b'{"name": "a", "counts": {}, "seconds": {"x": Infinity}}', "seconds.x: "),
    ],
)
def test_damage_is_named_in_a_line(data: bytes, words: str) -> None:
    """The file, what is wrong in it, and what to do."""
    with pytest.raises(RunFileError) as caught:
        parse(data)
    message = str(caught.value)
    assert message.startswith("out/_run/example.json: is damaged: ")
    assert words in message
    assert message.endswith("; remove it")
    assert "\n" not in message


def test_a_newer_version_is_refused_whatever_else_it_holds() -> None:
    """Its fields may have another meaning, so they are not read at all."""
    with pytest.raises(NewerVersionError, match=r"example\.json: is of version 2.*newer overpaint"):
        parse(b'{"version": 2, "name": ["of", "another", "form"]}')


def test_the_error_travels_between_processes() -> None:
    """A worker may meet it; Ray pickles it for the driver."""
    error = NewerVersionError("a", "is of version 2", "use a newer overpaint")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_a_run_record_does_not_say_is_none() -> None:
    """The inputs of a fingerprint are free in form, so each place is looked at."""
    known = {"code": {"overpaint": "c0de"}, "stages": {"decode": {"threads": 2}}}
    found = parse_run(json.dumps({"fingerprint": "f", "inputs": known}).encode(), "run.json")
    assert (found.code, found.threads) == ("c0de", 2)
    odd: list[dict] = [{}, {"code": None, "stages": {"decode": []}}, {"code": {"overpaint": 3}}]
    for inputs in odd:
        assert (RunRecord("f", inputs).code, RunRecord("f", inputs).threads) == (None, None)
