"""A decaying disk: a flipped bit of an output is found, or changes nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.steps.staged_parts import read_staged, staged_parts
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.committing import make_config, run
from tests.harmless import is_harmless
from tests.samples import raw_sample, write_shard

OBJECTS = ("0.tar", "0.parquet", "0_stats.json", "_rejected/0.tar")
FLIPS = [200, pytest.param(2000, marks=pytest.mark.sweep)]


def make_output(folder: Path) -> Store:
    """A shard with an edited, a rejected, an unchanged and a failed edit, in two parts."""
    samples = [raw_sample("a", ["a cat", "a dog"]), raw_sample("b", seed=1, cls="7")]
    samples.append(raw_sample("broken", png=b"no image"))
    write_shard(folder / "in/0.tar", samples)
    config = make_config(
        f"{folder}/in/*.tar", run={"part_size": 2}, filters=["background_psnr_db >= 6.85"]
    )
    store = Store(f"{folder}/out")
    run(config, store)
    return store


def flipped(data: bytes, generator: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    damaged[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
    return bytes(damaged)


def is_harmless_marker(name: str, whole: bytes, damaged: bytes) -> bool:
    """Whether the marker says the same: white space, or the name of the digest's own field."""
    return name.endswith("_stats.json") and is_harmless(whole, damaged)


@pytest.mark.parametrize("flips", FLIPS)
def test_verify_finds_every_flipped_bit_of_what_is_published(flips: int, tmp_path: Path) -> None:
    """Of the tar, the rejected tar, the Parquet file and the marker."""
    store = make_output(tmp_path)
    assert verify(store).problems == []
    whole = {name: store.get(name) for name in OBJECTS}
    generator = np.random.default_rng(flips)
    outcomes: Counter[str] = Counter()
    for number in range(flips):
        name = OBJECTS[number % len(OBJECTS)]
        damaged = flipped(whole[name], generator)
        (tmp_path / "out" / name).write_bytes(damaged)
        if verify(store).problems:
            outcomes["found"] += 1
        else:
            assert is_harmless_marker(name, whole[name], damaged), (name, number)
            outcomes["harmless"] += 1
        (tmp_path / "out" / name).write_bytes(whole[name])
    assert outcomes["found"] > 0.9 * flips, outcomes
    assert verify(store).problems == []


@pytest.mark.parametrize("flips", FLIPS)
def test_a_staged_part_with_a_flipped_bit_is_never_used(flips: int, tmp_path: Path) -> None:
    """It is deleted, so that it is computed again."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a", ["a cat"]), raw_sample("b")])
    config = make_config(f"{tmp_path}/in/*.tar", run={"part_size": 1})
    store = Store(f"{tmp_path}/out")
    run(config, store, order=lambda parts: list(parts)[:1])
    (part,) = staged_parts(store, "0")
    whole = store.get(part.name)
    assert read_staged(store, part) is not None
    generator = np.random.default_rng(flips)
    for _ in range(flips):
        place = tmp_path / "out" / part.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(flipped(whole, generator))
        assert read_staged(store, part) is None
        assert not place.exists()
