"""``input.limit`` can be changed in an output: what it cut short is computed anew."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest

from pipeline.plan.cuts import CUTS_FILE
from pipeline.plan.plan import Plan
from pipeline.records.part import Part
from pipeline.republish.retry_failed import reopen_failed
from pipeline.steps.verify import verify
from tests.committing import contents, invert
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard


class Runs:
    """Three shards of four edits each in parts of two, and outputs with any limit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for number in range(3):
            texts = [f"a cat {number}", f"a fox {number}"]
            samples = [raw_sample(key, texts, seed=number) for key in ("a", "b")]
            write_shard(folder / f"in/{number}.tar", samples)

    def plan(self, limit: int, name: str = "out") -> Plan:
        path = str(self.folder / name)
        return fake_plan(f"{self.folder}/in/*.tar", path, input={"limit": limit})

    def rows(self, name: str = "out") -> dict[str, int]:
        files = sorted((self.folder / name).glob("*.parquet"))
        return {file.stem: pq.read_table(file).num_rows for file in files}

    def published(self, name: str) -> dict[str, bytes]:
        found = contents(self.folder / name)
        return {name: data for name, data in found.items() if name.endswith((".tar", ".parquet"))}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.mark.parametrize("limit", [7, 8, 11, 12, 0])
def test_a_raised_limit_gives_the_bytes_of_a_run_with_that_limit(runs: Runs, limit: int) -> None:
    """The published shard that the lower limit cut is done again, others stay."""
    run_fake(runs.plan(6))
    assert runs.rows() == {"0": 4, "1": 2}
    raised = runs.plan(limit)
    assert raised.published == ["0"]
    assert [work.shard.name for work in raised.work][:1] == ["1"]
    assert raised.cuts.lines == [
        "shard 1: the output has its first 2 edits only, because of another input.limit; it is "
        "computed anew"
    ]
    assert not run_fake(raised).work
    run_fake(runs.plan(limit, "clean"))
    assert runs.published("out") == runs.published("clean")
    again = runs.plan(limit)
    assert (again.work, again.cuts.outdated) == ([], {})
    assert verify(again.output).problems == []


def test_the_same_limit_resumes(runs: Runs) -> None:
    """Nothing that a limit cut is done twice."""
    run_fake(runs.plan(6))
    again = runs.plan(6)
    assert (again.work, again.cuts.outdated) == ([], {})
    assert json.loads(again.output.get(CUTS_FILE)) == {"1": 2}


def test_a_limit_that_ends_between_shards_cuts_none(runs: Runs) -> None:
    """There is no record, and a higher limit adds shards only."""
    run_fake(runs.plan(4))
    assert not runs.plan(4).output.exists(CUTS_FILE)
    raised = runs.plan(9)
    assert (raised.published, raised.cuts.outdated) == (["0"], {})


def test_staged_parts_of_another_limit_are_discarded(runs: Runs) -> None:
    """They would be put together with parts of other edits."""
    run_fake(runs.plan(4))
    parts: list[Part] = []

    def stop_at_the_second(part: Part) -> Part:
        parts.append(part)
        if len(parts) == 2:
            raise KeyboardInterrupt
        return invert(part)

    with pytest.raises(KeyboardInterrupt):
        run_fake(runs.plan(7), edit=stop_at_the_second, beside=False)
    assert runs.plan(7).work[0].num_staged == 1
    raised = runs.plan(0)
    assert raised.cuts.outdated == {"1": 3}
    assert [work.staged for work in raised.work] == [frozenset(), frozenset()]
    assert not run_fake(raised).work
    assert runs.rows() == {"0": 4, "1": 4, "2": 4}


def test_a_lower_limit_leaves_what_is_published(runs: Runs) -> None:
    """It holds what is asked for, and more; raising the limit again finds what was cut."""
    run_fake(runs.plan(7))
    lowered = runs.plan(5)
    assert (lowered.work, lowered.cuts.outdated) == ([], {})
    run_fake(lowered)
    assert runs.rows() == {"0": 4, "1": 3}
    assert runs.plan(8).cuts.outdated == {"1": 3}


def test_a_run_that_is_killed_before_it_records_finds_the_shard_again(runs: Runs) -> None:
    """The marker goes first, then the parts, then the new record is written."""
    run_fake(runs.plan(6))
    raised = runs.plan(0)
    (runs.folder / "out/1_stats.json").unlink()
    killed = runs.plan(0)
    assert [work.shard.name for work in killed.work] == ["1", "2"]
    assert not run_fake(killed).work
    assert raised.work == killed.work
    assert runs.rows() == {"0": 4, "1": 4, "2": 4}
    assert not json.loads(killed.output.get(CUTS_FILE))


def test_failed_edits_of_a_cut_shard_are_computed_again(runs: Runs) -> None:
    """With the same limit: the shard keeps its edits."""
    run_fake(runs.plan(6), failing=["a cat 1"])
    reopened = reopen_failed(runs.plan(6))
    assert (reopened.shards, reopened.problems) == (["1"], [])
    assert not run_fake(reopened.plan).work
    assert runs.rows() == {"0": 4, "1": 2}
    assert runs.plan(0).cuts.outdated == {"1": 2}


def test_a_complete_set_of_parts_of_another_limit_is_not_published(runs: Runs) -> None:
    """A run that was killed between its last part and the marker leaves one behind."""
    with mock.patch("pipeline.execution.operators.publish_if_complete", return_value=None):
        run_fake(runs.plan(6))
    assert runs.rows() == {}
    raised = runs.plan(0)
    assert raised.cuts.outdated == {"1": 2}
    assert not run_fake(raised).work
    assert runs.rows() == {"0": 4, "1": 4, "2": 4}
