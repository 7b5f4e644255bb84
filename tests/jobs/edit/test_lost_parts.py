"""Lost parts are retried alone: which losses fail a part, and which do not."""

from __future__ import annotations

import errno
from typing import Any, cast
from unittest import mock

import pytest
import ray

import jobs.edit.lost_parts
from jobs.edit.edits_left import EditsLeft
from jobs.edit.lost_parts import MAX_LOSSES, run_missing
from jobs.edit.part_runner import NodeLostError, NotStoredError, Runner, RunnerLostError
from jobs.edit.progress import RunProgress
from jobs.supervise.journal import Entry, Journal
from jobs.supervise.shutdown import StopFlag
from jobs.supervise.watchdog import Guard
from pipeline.config.load import parse_config
from pipeline.models.model_info import ModelInfo
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.staged import PartResult
from pipeline.storage.retry import StorageError
from pipeline.storage.shards import InputShard


class NoJournal(Journal):
    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries  # one for each lost call

    def take_reasons(self) -> list[Any]:
        return []

    def take_outages(self) -> list[str]:
        return []

    def take_notices(self) -> list[str]:
        return []

    def entry(self, shard: str, part: int | None) -> Entry | None:
        return self.entries.pop(0) if self.entries else None


class NoFlag(StopFlag):
    def __init__(self) -> None:
        pass

    def is_set(self) -> bool:
        return False


class FakeRunner:
    """A runner of two parts that is lost once at each call named in ``lost``."""

    lost: list[tuple[str, RunnerLostError]]
    done: list[str]
    samples: list[dict[str, tuple[str, str, str]]]  # lost ones of each part in ``done``

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
            self.samples.append(cast(Any, arguments[-1]))
            return PartResult("0", len(self.done) - 1, {})
        return None

    def end(self) -> None:
        pass


def run_alone(
    monkeypatch: pytest.MonkeyPatch,
    lost: list[tuple[str, RunnerLostError]],
    entries: list[Entry] | None = None,
    **run: object,
) -> list[str]:
    """Retries a shard of two parts; returns how each part ended."""
    config = parse_config(
        {"input": {"shards": "x.tar"}, "output": {"path": "memory://missing"}, "run": run}
    )
    model = ModelInfo(cast(Any, None), "", "stable-diffusion", "epsilon", 512, 8, 4)
    plan = Plan(config, "cpu", model, "", {}, [ShardWork(InputShard("0.tar", "0", 0))], [])
    FakeRunner.lost, FakeRunner.done, FakeRunner.samples = lost, [], []
    monkeypatch.setattr(jobs.edit.lost_parts, "Runner", FakeRunner)
    monkeypatch.setattr(jobs.edit.lost_parts, "publish_staged", lambda plan: plan)
    monkeypatch.setattr(Plan, "still_to_do", lambda self: self)
    with RunProgress(1, 0, 100.0, EditsLeft(plan)) as progress:
        run_missing(plan, progress, Guard(NoJournal(entries or []), None), NoFlag())
    return FakeRunner.done


@pytest.mark.parametrize("question", ["open", "next", "load", "compute"])
def test_a_lost_node_fails_no_part(monkeypatch: pytest.MonkeyPatch, question: str) -> None:
    """Whatever the runner was doing when its node was lost, another runner takes over."""
    lost = [(question, NodeLostError("died with its node")) for _ in range(9)]
    assert run_alone(monkeypatch, cast(Any, lost)) == ["compute", "compute"]


def test_a_part_whose_runner_dies_on_a_healthy_node_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other part is computed."""
    lost = [("compute", RunnerLostError("died"))]
    assert run_alone(monkeypatch, lost) == ["fail", "compute"]


def test_a_sample_that_loses_the_runner_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them in one part: the second was hidden by the first, so it is met twice."""
    lost = [("compute", RunnerLostError("died"))] * 3
    hang = Entry("finish", 4.0, sample="b")
    entries = [Entry("prepare", sample="a"), hang, hang]
    assert run_alone(monkeypatch, cast(Any, lost), entries) == ["compute", "compute"]
    died = "the worker that computed this sample died, also when retried alone"
    hung = "timed out after 4 s, also when retried alone"
    failed = {"a": ("prepare", "PartLost", died), "b": ("finish", "TimedOut", hung)}
    assert FakeRunner.samples == [failed, {}]


@pytest.mark.parametrize(
    ("keys", "failed"),
    [
        (["a", "a"], {"a"}),
        (["a", "b", "b", "b"], {"a", "b"}),
        (["a", "b", None], {"a"}),
        ([str(number) for number in range(MAX_LOSSES)], {"0"}),
    ],
    ids=["the failed one again", "another again", "in a stage", "too many"],
)
def test_a_part_fails_where_no_sample_is_the_cause(
    monkeypatch: pytest.MonkeyPatch, keys: list[str | None], failed: set[str]
) -> None:
    """It ends whatever the journal says; the samples that failed keep their own reason."""
    lost = [("compute", RunnerLostError("died")) for _ in keys]
    entries = [Entry("prepare" if key else "mask", sample=key) for key in keys]
    assert run_alone(monkeypatch, cast(Any, lost), entries) == ["fail", "compute"]
    assert set(FakeRunner.samples[0]) == failed


def test_a_part_that_the_store_refuses_has_no_failed_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk takes the small rows of a failure, which would stay; the shard stays undone."""
    full = NotStoredError("raised OSError: [Errno 28] No space left on device")
    assert run_alone(monkeypatch, [("compute", full)]) == []
    words = "shard 0 stays unpublished: storing part 0 raised OSError: [Errno 28] No space left"
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "is_stored"),
    [
        (PermissionError("put s3://b/out/_parts/0: Forbidden; check the credentials"), False),
        (StorageError("put s3://b/out/_parts/0: InsufficientStorage (507)"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("planted"), True),
    ],
)
def test_what_a_store_raises_is_told_from_a_fault_of_the_part(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, is_stored: bool
) -> None:
    """Of any kind of store; only the latter may become rows."""
    error = ray.exceptions.RayTaskError("compute", "", raised)
    assert asked(monkeypatch, error) is (RunnerLostError if is_stored else NotStoredError)


def test_a_full_disk_of_a_node_is_no_fault_of_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray spills what does not fit into its memory."""
    assert asked(monkeypatch, ray.exceptions.OutOfDiskError()) is NotStoredError


def asked(monkeypatch: pytest.MonkeyPatch, error: Exception) -> type[Exception]:
    """What a runner's handle makes of an error of Ray."""
    monkeypatch.setattr(ray, "get", mock.Mock(side_effect=error))
    monkeypatch.setattr(ray, "kill", mock.Mock())
    runner = Runner.__new__(Runner)
    runner.actor = mock.Mock()
    with pytest.raises(RunnerLostError) as caught:
        runner.ask("compute")
    return caught.type


def test_a_part_that_loses_node_after_node_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of lost nodes is limited by run.max_restarts."""
    lost = [("compute", NodeLostError("died with its node")) for _ in range(3)]
    assert run_alone(monkeypatch, cast(Any, lost), max_restarts=2) == ["fail", "compute"]


@pytest.mark.parametrize(("failures", "done"), [(2, ["compute", "compute"]), (3, [])])
def test_a_model_that_does_not_load_fails_no_part(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failures: int,
    done: list[str],
) -> None:
    """After the allowed attempts nothing is staged, and a line says why."""
    lost = [("load", RunnerLostError("raised OSError: no such file")) for _ in range(failures)]
    assert run_alone(monkeypatch, lost, max_start_retries=2) == done
    words = "retry worker raised OSError: no such file while it loaded the model"
    assert (words in capsys.readouterr().err) == (not done)


def test_a_shard_that_kills_its_reader_stays_unpublished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its samples are unknown, so it has no rows; a line names the shard."""
    assert run_alone(monkeypatch, [("next", RunnerLostError("died"))]) == []
    assert "shard 0 stays unpublished: reading it died" in capsys.readouterr().err
