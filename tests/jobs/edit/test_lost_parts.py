"""What was lost runs again alone: who is to blame for a runner that is lost."""

from __future__ import annotations

from typing import Any, cast

import pytest

import jobs.edit.lost_parts
from jobs.edit.lost_parts import run_missing
from jobs.edit.part_runner import NodeLostError, RunnerLostError
from jobs.edit.progress import RunProgress
from jobs.supervise.journal import Journal
from jobs.supervise.shutdown import StopFlag
from jobs.supervise.watchdog import Guard
from pipeline.config.load import parse_config
from pipeline.models.probe import ModelInfo
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.staged import PartResult
from pipeline.storage.shards import InputShard


class NoJournal(Journal):
    def __init__(self) -> None:
        pass

    def take_reasons(self) -> list[Any]:
        return []

    def entry(self, shard: str, part: int | None) -> None:
        return None


class NoFlag(StopFlag):
    def __init__(self) -> None:
        pass

    def is_set(self) -> bool:
        return False


class FakeRunner:
    """Two parts, and a loss at each question of ``LOST``, once."""

    lost: list[tuple[str, RunnerLostError]]
    done: list[str]

    def __init__(self, *arguments: object) -> None:
        self.dead = self.opened = self.loaded = False

    def ask(self, method: str, *arguments: object) -> object:
        assert not self.dead, "a runner that was lost is asked again"
        assert self.opened or method == "open", "a new runner knows of no shard"
        assert self.loaded or method != "compute", "a new runner has no networks"
        if self.lost and self.lost[0][0] == method:
            self.dead = True
            raise self.lost.pop(0)[1]
        self.opened |= method == "open"
        self.loaded |= method == "load"
        if method == "next":
            index = len(self.done)
            return index if index < 2 else None
        if method in ("compute", "fail"):
            self.done.append(method)
            return PartResult("0", len(self.done) - 1, {})
        return None

    def end(self) -> None:
        pass


def run_alone(
    monkeypatch: pytest.MonkeyPatch, lost: list[tuple[str, RunnerLostError]], **run: object
) -> list[str]:
    """How each part of a shard was done."""
    config = parse_config(
        {"input": {"shards": "x.tar"}, "output": {"path": "memory://missing"}, "run": run}
    )
    model = ModelInfo(cast(Any, None), "", "stable-diffusion", "epsilon", 512, 8, 4)
    plan = Plan(config, "cpu", model, "", {}, [ShardWork(InputShard("0.tar", "0", 0))], [])
    FakeRunner.lost, FakeRunner.done = lost, []
    monkeypatch.setattr(jobs.edit.lost_parts, "Runner", FakeRunner)
    monkeypatch.setattr(jobs.edit.lost_parts, "publish_staged", lambda plan: plan)
    monkeypatch.setattr(Plan, "still_to_do", lambda self: self)
    with RunProgress(1, 0, 100.0) as progress:
        run_missing(plan, progress, Guard(NoJournal(), None), NoFlag())
    return FakeRunner.done


@pytest.mark.parametrize("question", ["open", "next", "load", "compute"])
def test_lost_node_is_no_fault_of_a_part(monkeypatch: pytest.MonkeyPatch, question: str) -> None:
    """Whatever the runner was at when its machine was taken away: another one does it."""
    lost = [(question, NodeLostError("died with its node")) for _ in range(9)]
    assert run_alone(monkeypatch, cast(Any, lost)) == ["compute", "compute"]


def test_part_whose_runner_dies_on_a_healthy_node_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part is to blame; the second one is computed."""
    lost = [("compute", RunnerLostError("died"))]
    assert run_alone(monkeypatch, lost) == ["fail", "compute"]


def test_nodes_are_not_lost_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that takes its machine along, again and again, fails as one whose worker dies."""
    lost = [("compute", NodeLostError("died with its node")) for _ in range(3)]
    assert run_alone(monkeypatch, cast(Any, lost), max_restarts=2) == ["fail", "compute"]


@pytest.mark.parametrize(("failures", "done"), [(2, ["compute", "compute"]), (3, [])])
def test_networks_that_do_not_load_fail_no_part(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failures: int,
    done: list[str],
) -> None:
    """As often as a worker may try; then nothing is staged, and a line says why."""
    lost = [("load", RunnerLostError("raised OSError: no such file")) for _ in range(failures)]
    assert run_alone(monkeypatch, lost, max_start_retries=2) == done
    words = "retry worker raised OSError: no such file while it loaded the model"
    assert (words in capsys.readouterr().err) == (not done)


def test_a_shard_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody knows its samples, so it has no rows; and no other question is asked of it."""
    assert run_alone(monkeypatch, [("next", RunnerLostError("died"))]) == []
    assert "shard 0 stays unpublished: reading it died" in capsys.readouterr().err
