"""Staging: the first staged part is the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.records.part import Edit, Part, Sample
from pipeline.steps.finish import finish
from pipeline.steps.write_part import from_ipc, header_of, write_part
from pipeline.storage.store import Store
from tests.committing import invert, make_config, make_context, prepared, table_of
from tests.samples import encode, pixels

GENERATION = "0123456789ab"
NAME = f"_parts/deep/00042/00001-of-00003-{GENERATION}.arrow"


@pytest.fixture
def part() -> Part:
    sample = Sample("k", caption="a", encoded=encode(pixels()), edits=[Edit(0, "b"), Edit(1, "c")])
    sample.edits[1].fail("read", "EmptyText", "the edit text is empty")
    return Part(
        *("deep/00042", 1, 3, [sample], "truncated: x", "0" * 64, GENERATION),
        hosts=["h"],
        device="cpu",
    )


def finished(part: Part) -> Part:
    return finish(part, make_context(make_config()))


def test_a_part_is_staged_under_its_number(tmp_path: Path, part: Part) -> None:
    """The name holds shard, index and number; the table comes back with its header."""
    store = Store(str(tmp_path))
    part = finished(invert(prepared(part, make_config())))
    part.seconds = {"mask": 1.5}
    assert write_part(store, part, "f00d", "c0de")
    assert list(store.list()) == [NAME]
    back = from_ipc(store.get(NAME))
    assert part.table is not None
    assert back.equals(part.table)
    header = header_of(back)
    assert (header.shard, header.index, header.num_parts) == ("deep/00042", 1, 3)
    assert (header.num_rows, header.fingerprint, header.problem) == (2, "f00d", "truncated: x")
    assert (header.seconds, header.hosts, header.device) == ({"mask": 1.5}, ["h"], "cpu")
    assert header.code == "c0de"
    assert (header.input_sha256, header.generation) == ("0" * 64, GENERATION)


def test_the_first_staged_part_stays(tmp_path: Path, part: Part) -> None:
    """A task that runs twice takes what is there."""
    store = Store(str(tmp_path))
    first = finished(invert(prepared(part, make_config())))
    assert write_part(store, first, "f00d", "c0de")
    staged = store.get(NAME)
    again = Part("deep/00042", 1, 3, [Sample("k", edits=[Edit(0, "b")])], generation=GENERATION)
    again.fail("x", "Lost", "again")
    assert not write_part(store, finished(again), "f00d", "c0de")
    assert store.get(NAME) == staged


def test_nothing_is_staged_for_a_published_shard(tmp_path: Path, part: Part) -> None:
    """A late task finds the marker and drops its part."""
    store = Store(str(tmp_path))
    store.put("deep/00042_stats.json", b"{}")
    assert not write_part(store, finished(part), "f00d", "c0de")
    assert list(store.list()) == ["deep/00042_stats.json"]


def test_a_part_that_cannot_be_computed_is_all_failed(part: Part) -> None:
    """Edits in flight get the reason; one that had failed before keeps its own."""
    part.fail("compute", "PartLost", "the worker died")
    rows = table_of(part, make_context(make_config())).to_pylist()
    assert [row["status"] for row in rows] == ["failed", "failed"]
    assert [row["error"] for row in rows] == ["PartLost", "EmptyText"]
    assert rows[0]["message"] == "the worker died"
    assert not any(row["members"] for row in rows)
