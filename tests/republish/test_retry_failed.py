"""``--retry-failed``: failed rows are computed again, and the shard is as if nothing had failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.plan.plan import Plan
from pipeline.plan.status import read_status
from pipeline.records.part import Part
from pipeline.republish.retry_failed import is_retried, reopen_failed
from pipeline.steps.marker import read_marker
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.committing import invert
from tests.fake_job import fake_plan, run_fake
from tests.samples import encode, pixels, raw_sample, write_shard

Planner = Callable[..., Plan]


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    """Plans over two shards; edits with the text "bad" are made to fail by the tests."""
    samples = [
        raw_sample("a", ["a cat", "bad"], seed=1, cls="7"),
        raw_sample("b", ["a dog", "a fox"], seed=2),  # the first equals its caption
        raw_sample("broken", png=b"no image"),
        raw_sample("c.d", seed=3),
        raw_sample("e", ["1", "2", "3"], seed=4),
    ]
    write_shard(tmp_path / "in/0.tar", samples)
    write_shard(tmp_path / "in/1.tar", samples[1:])

    def plan(output: str, **sections: Any) -> Plan:
        return fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/{output}", **sections)

    return plan


def published(store: Store) -> dict[str, bytes]:
    """Every tar and Parquet file."""
    return {name: store.get(name) for name in store.list() if name.endswith((".tar", ".parquet"))}


def test_retried_rows_end_in_the_bytes_of_an_undisturbed_run(planner: Planner) -> None:
    """Only the part with the failed row is computed, in its original composition."""
    clean, failed = planner("clean"), planner("failed")
    run_fake(clean)
    run_fake(failed, failing=["bad"])
    assert published(failed.output) != published(clean.output)
    reopened = reopen_failed(planner("failed"))
    assert (reopened.shards, reopened.problems) == (["0"], [])
    assert [item.shard.name for item in reopened.plan.work] == ["0"]
    assert reopened.plan.published == ["1"]
    computed = []

    def watch(part: Part) -> Part:
        computed.append((part.shard, part.index, [edit.edit_text for edit in part.edits]))
        return invert(part)

    assert run_fake(reopened.plan, edit=watch).work == []
    assert computed == [("0", 0, ["a cat", "bad"])]
    assert published(failed.output) == published(clean.output)
    assert verify(failed.output).problems == []
    marker, undisturbed = read_marker(failed.output, "0"), read_marker(clean.output, "0")
    assert marker is not None
    assert undisturbed is not None
    assert (marker.counts, marker.failures) == (undisturbed.counts, undisturbed.failures)
    assert (marker.problem, marker.num_evals) == (undisturbed.problem, undisturbed.num_evals)
    assert set(marker.hosts) == set(undisturbed.hosts)


def test_parts_of_mixed_shapes_are_read_again_as_they_were(tmp_path: Path) -> None:
    """In the order of the shapes, which is not that of the shard."""
    sizes = [(64, 32), (32, 64), (32, 32), (32, 64), (64, 32)]
    samples = [
        raw_sample(
            f"{number}", ["bad" if number == 3 else "a cat"], png=encode(pixels(3, *size[::-1]))
        )
        for number, size in enumerate(sizes)
    ]
    write_shard(tmp_path / "in/0.tar", samples)
    plans = {
        name: partial(
            fake_plan,
            shards=f"{tmp_path}/in/*.tar",
            path=f"{tmp_path}/{name}",
            model={"buckets": [[64, 32], [32, 32], [32, 64]]},
        )
        for name in ("clean", "failed")
    }
    run_fake(plans["clean"]())
    run_fake(plans["failed"](), failing=["bad"])
    reopened = reopen_failed(plans["failed"]())
    assert (reopened.shards, reopened.problems) == (["0"], [])
    run_fake(reopened.plan)
    output = reopened.plan.output
    assert published(output) == published(plans["clean"]().output)
    rows = pq.read_table(tmp_path / "failed/0.parquet").to_pylist()
    assert [row["key"] for row in rows] == ["1", "3", "2", "0", "4"]


def test_what_fails_for_its_own_sake_is_not_retried(planner: Planner) -> None:
    """A broken image fails alike, so its shard stays as it is."""
    run_fake(planner("out"))
    reopened = reopen_failed(planner("out"))
    assert (reopened.shards, reopened.problems, reopened.plan.work) == ([], [], [])


@pytest.mark.parametrize(
    ("stage", "error", "retried"),
    [
        ("compute", "PartLost", True),
        ("mask", "OutOfMemoryError", True),
        ("encode", "RuntimeError", True),
        ("decode", "ValueError", True),
        ("finish", "OSError", True),
        ("finish", "BadSettings", False),
        ("read", "NoImage", False),
        ("prepare", "UnidentifiedImageError", False),
        ("prepare", "MemoryError", True),
    ],
)
def test_which_kinds_are_retried(stage: str, error: str, retried: bool) -> None:
    """What may come out otherwise: the machine's faults, not the row's own."""
    assert is_retried(stage, error) is retried


def test_a_row_that_fails_again_stays_failed(planner: Planner) -> None:
    """The shard is published again with its reason, whole."""
    run_fake(planner("out"), failing=["bad"])
    before = published(planner("out").output)
    run_fake(reopen_failed(planner("out")).plan, failing=["bad"])
    assert published(planner("out").output) == before
    assert verify(planner("out").output).problems == []


def test_leftover_parts_of_the_failed_generation_are_not_taken(planner: Planner) -> None:
    """A driver killed after its marker left the failed part; it is computed all the same."""
    store = planner("out").output
    kept: dict[str, bytes] = {}

    def keep(when: str, operation: str, name: str) -> None:
        if when == "after" and operation == "put_if_absent" and name.startswith("_parts/0/"):
            Store.hook = None
            kept[name] = store.get(name)
            Store.hook = keep

    Store.hook = keep
    try:
        run_fake(planner("out"), failing=["bad"])
    finally:
        Store.hook = None
    for name, data in kept.items():
        store.put(name, data)
    run_fake(reopen_failed(planner("out")).plan)
    run_fake(planner("clean"))
    assert published(store) == published(planner("clean").output)


@pytest.mark.parametrize("change", ["input", "picture", "tar"])
def test_what_is_no_longer_the_same_stays_as_it_is(
    planner: Planner, tmp_path: Path, change: str
) -> None:
    """Another input, or a damaged tar: the reason is said, and not a byte is touched."""
    run_fake(planner("out"), failing=["bad"])
    store = planner("out").output
    if change == "input":
        write_shard(tmp_path / "in/0.tar", [raw_sample("a", ["a cat", "bad"], seed=9)])
    elif change == "picture":  # the same texts, of the very same length, for another image
        data = (tmp_path / "in/0.tar").read_bytes()
        (tmp_path / "in/0.tar").write_bytes(
            data.replace(b"tEXt", b"tEXT").replace(b"IDAT", b"IDAX")
        )
    else:
        store.put("0.tar", store.get("0.tar") + bytes(512))
    before = {name: store.get(name) for name in store.list()}
    reopened = reopen_failed(planner("out"))
    assert (reopened.shards, reopened.plan.work) == ([], [])
    assert reopened.problems[0].startswith("shard 0: not computed again: ")
    assert {name: store.get(name) for name in store.list()} == before


def test_a_limited_run_is_retried_within_its_limit(planner: Planner) -> None:
    """The shard that the limit cuts is composed as it was."""
    limited = {"input": {"limit": 5}}
    run_fake(planner("out", **limited), failing=["bad", "a fox"])
    run_fake(reopen_failed(planner("out", **limited)).plan)
    run_fake(planner("clean", **limited))
    assert published(planner("out", **limited).output) == published(
        planner("clean", **limited).output
    )


def test_status_shows_a_reopened_shard_as_staged(planner: Planner) -> None:
    """Between the two halves its rows are not counted as done."""
    run_fake(planner("out"), failing=["bad"])
    plan = reopen_failed(planner("out")).plan
    assert read_status(plan.output).states == {"done": 1, "staged": 1, "to do": 0}
    assert json.loads(plan.output.get("_run/inputs.json"))


def test_a_shard_whose_parts_all_are_staged_is_published(planner: Planner) -> None:
    """A run killed between its last part and its marker left nothing to compute but to publish."""
    plan = planner("out")

    class Killed(BaseException):
        pass

    def kill(when: str, operation: str, name: str) -> None:
        if (when, operation, name) == ("before", "put", "1.tar"):
            raise Killed

    Store.hook = kill
    try:
        with pytest.raises(Killed):
            run_fake(plan)
    finally:
        Store.hook = None
    (work,) = planner("out").work
    assert len(work.staged) == 4
    assert run_fake(planner("out")).work == []
    assert verify(plan.output).problems == []


def test_halvings_of_the_micro_batch_are_counted_once(planner: Planner) -> None:
    """From the part to marker and summary, over the parts of a shard, and through a republish."""

    def starved(part: Part) -> Part:
        part.halvings = {"mask": 1, "decode": 2}
        return invert(part)

    run_fake(planner("out"), failing=["bad"], edit=starved)
    store, counted = planner("out").output, []
    for _ in range(2):
        marker = read_marker(store, "0")
        assert marker is not None
        counted.append((marker.halvings, json.loads(store.get("_run/summary.json"))["halvings"]))
        run_fake(reopen_failed(planner("out")).plan, failing=["bad"])  # part 0, without halvings
    assert counted[0] == ({"decode": 10, "mask": 5}, {"decode": 18, "mask": 9})
    assert counted[1] == counted[0]
