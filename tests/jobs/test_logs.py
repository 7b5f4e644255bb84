"""Logs as JSON lines: a program can parse each line, and it names the shard and the part."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from jobs import logs
from jobs.cli import main
from jobs.edit.graph import StageActor
from jobs.supervise.watchdog import Guard
from pipeline.execution.operators import Operator, nothing_around
from tests.jobs.conftest import Recovered
from tests.jobs.faulty import LIBRARY

# Lines that Ray writes into its workers' files: names of jobs and actors, and logs of its C++ code.
OF_RAY = re.compile(r":(job_id|actor_name|task_name):|\[20\d\d-|\[\w+\.cc : \d+\] RAW: ")


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


def test_a_librarys_warning_names_the_part(
    json_lines: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does so while the step runs, and no longer."""
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


def test_a_librarys_wrong_format_string_raises_no_error(
    json_lines: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise it would fail the part."""
    logs.use_format("json")
    logging.getLogger("anything").warning("%d of", "many")
    (line,) = parsed(capsys.readouterr().err)
    assert line["message"] == "%d of ('many',)"
    assert line["logger"] == "anything"


def test_a_librarys_warning_while_an_actor_loads_is_json(
    json_lines: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The actor sets the format before it loads its model."""

    def load(pool: str) -> list[Operator]:
        logging.getLogger("anything").warning("an old format")
        return []

    guard = Guard(mock.MagicMock(), 60.0, log_format="json")
    with mock.patch("jobs.edit.graph.starting", return_value=nullcontext()):
        StageActor(mock.Mock(load=load), "mask", guard, nothing_around, None)
    (line,) = parsed(capsys.readouterr().err)
    assert line["message"] == "an old format"


def test_a_configuration_error_is_json_too(
    json_lines: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This holds once the run has read that its log format is JSON."""
    places = ["input.shards=memory://in/*.tar", f"output.path={tmp_path}", "run.log_format=json"]
    assert main(["edit", "demo", *places]) == 2
    (line,) = parsed(capsys.readouterr().err)
    assert line["level"] == "error"
    assert "memory:// is the memory of one process" in line["message"]


def test_text_format_prints_messages_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Notes, which are for programs, are left out."""
    logs.tell("2 shards to do", shards=2)
    logs.note("part staged", shard="0", part=1)
    assert capsys.readouterr().err == "2 shards to do\n"


def ours(lines: list[str]) -> list[dict[str, Any]]:
    """All lines except Ray's own, parsed; a line that is not JSON is an error."""
    return [json.loads(line) for line in lines if not OF_RAY.match(line)]


@pytest.mark.slow
def test_all_lines_of_driver_and_workers_are_json(recovered: Recovered) -> None:
    """Each line has time, level, host and process."""
    driver = [json.loads(line) for line in recovered.done.stderr.splitlines()]
    workers = ours(recovered.worker_lines)
    assert recovered.done.stdout == ""
    for line in [*driver, *workers]:
        assert line.keys() >= {"time", "level", "message", "host", "pid"}
    assert any(line["message"] == "summary" for line in driver)
    assert len({line["pid"] for line in workers}) >= 4  # three actors, readers and writers


@pytest.mark.slow
def test_workers_lines_name_shard_part_and_step(recovered: Recovered) -> None:
    """Each step on each staged part has a line, and so have a library's warnings during it."""
    driver, workers = ours(recovered.done.stderr.splitlines()), ours(recovered.worker_lines)
    staged = {(line["shard"], line["part"]) for line in driver if line["message"] == "part staged"}
    assert len({shard for shard, _ in staged}) == 3
    steps: dict[str, set[tuple[str, int | None]]] = {}
    for line in workers:
        place = (line.get("shard", ""), line.get("part"))
        steps.setdefault(line.get("step", ""), set()).add(place)
    for step in ("prepare", "mask", "encode", "decode", "finish"):
        assert steps[step] == staged
    assert steps["read"] == {(shard, None) for shard, _ in staged}
    library = [line for line in workers if line.get("logger") == LIBRARY]
    assert library
    assert all((line["shard"], line["part"]) in staged for line in library)
    assert {line["step"] for line in library} == {"mask"}
