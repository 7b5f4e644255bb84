"""Logs as JSON lines: a program can read each, and learns which shard and part it is of."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from jobs import logs
from jobs.watch import Guard


@pytest.fixture
def json_lines() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    logs.use_format("text")
    logs.set_place()
    root.handlers, root.level = before, level


def parsed(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_library_s_warning_says_which_part_it_is_of(
    json_lines: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """While a step is watched over, and no longer."""
    guard = Guard(mock.Mock(), 60.0, log_format="json")
    with guard.watch("deep/00042", 3, "finish"):
        logging.getLogger("anything").warning("slow %s", "store")
    logging.getLogger("anything").warning("idle")
    first, *_, last = parsed(capsys.readouterr().err)
    assert (
        first.items()
        >= {
            "message": "slow store",
            "level": "warning",
            "shard": "deep/00042",
            "part": 3,
            "step": "finish",
        }.items()
    )
    assert last["message"] == "idle"
    assert "shard" not in last


def test_text_stays_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """A message as it is; what is for programs is left out."""
    logs.tell("2 shards to do", shards=2)
    logs.note("part staged", shard="0", part=1)
    assert capsys.readouterr().err == "2 shards to do\n"
