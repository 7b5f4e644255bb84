"""A file with its own digest is read as it was written, or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.mix.marker import OF_PLAN, MixRecord
from pipeline.pack.record import PackedShard
from pipeline.plan.filters import FILTERS_FILE, FiltersInForce, read_filters
from pipeline.records.run_files import RunFileError, parse_record, sealed_json
from pipeline.storage.store import Store


@dataclass(frozen=True)
class Small:
    name: str
    counts: dict[str, Any]


def read(data: bytes) -> Small:
    return parse_record(data, "small.json", Small, remedy="restore it")


@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_flipped_bit_changes_what_is_read(ascii_only: bool) -> None:
    """Each bit of a file whose content looks like its digest; what is read stays the same."""
    content = {"digest": "", "\n  digest": 7, "é": {"digest": ""}}
    whole = sealed_json({"name": '\n  "digest": ""', "counts": content}, ascii_only=ascii_only)
    found = read(whole)
    assert found == Small('\n  "digest": ""', content)
    assert json.loads(whole)["digest"] != ""
    refused = 0
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            try:
                assert read(bytes(data)) == found, (place, bit)
            except RunFileError:
                refused += 1
    assert refused > 0.9 * 8 * len(whole)


def test_a_file_without_a_digest_is_read() -> None:
    """Older versions wrote none."""
    assert read(b'{"name": "a", "counts": {}}') == Small("a", {})


def test_a_changed_filter_is_refused_by_name(tmp_path: Path) -> None:
    """It is a filter as good as the one that was set."""
    store = Store(str(tmp_path))
    text = FiltersInForce(["background_psnr_db >= 26"]).to_json()
    store.put(FILTERS_FILE, text)
    assert read_filters(store) is not None
    store.put(FILTERS_FILE, text.replace(b">= 26", b">= 27"))
    with pytest.raises(RunFileError, match=r"filters\.json: is damaged: it is not what its digest"):
        read_filters(store)


@pytest.mark.parametrize(
    ("kind", "tree"),
    [
        (MixRecord, {"version": 2, "mix": {"seed": 10}, "shards": []}),
        (PackedShard, {"tar": "0.tar", "samples": 10, "bytes": 1024, "sha256": "0"}),
    ],
)
def test_a_changed_number_is_refused(kind: Any, tree: dict[str, Any]) -> None:
    """Plans and markers of mixes and packs."""
    whole = sealed_json(tree)
    assert parse_record(whole, "x", kind, remedy=OF_PLAN, newest=2)
    with pytest.raises(RunFileError, match="digest"):
        parse_record(whole.replace(b": 10", b": 12"), "x", kind, remedy=OF_PLAN, newest=2)
