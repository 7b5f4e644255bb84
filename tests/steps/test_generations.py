"""Parts of two contents of an input never meet, and a damaged part is never published."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.config import Config
from pipeline.config.filters import filtering_of
from pipeline.records.part import Part
from pipeline.republish.refilter import refilter
from pipeline.steps.marker import read_marker
from pipeline.steps.publish import publish_if_complete
from pipeline.steps.staged_parts import staged_parts
from pipeline.steps.verify import verify
from pipeline.storage.layout import claim_name, sweep
from pipeline.storage.store import Store
from tests.committing import contents, make_config, run
from tests.samples import raw_sample, write_shard

TEXTS = ["a cat", "a fox", "a dog", "1"]


def write_input(tmp_path: Path, seed: int = 0) -> str:
    """A shard of four parts of one edit; returns its sha256. Another seed has other images."""
    samples = [raw_sample("a", TEXTS[:2], seed=seed), raw_sample("b", TEXTS[2:], seed=seed + 1)]
    path = write_shard(tmp_path / "in/0.tar", samples)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def config_of(tmp_path: Path) -> Config:
    return make_config(f"{tmp_path}/in/*.tar", run={"part_size": 1})


def all_but(*indices: int) -> object:
    def order(parts: Iterable[Part]) -> Iterable[Part]:
        return [part for part in parts if part.index not in indices]

    return order


def published(output: Path) -> dict[str, bytes]:
    """The tar and the Parquet file: those are functions of the input."""
    return {name: data for name, data in contents(output).items() if name.endswith(("r", "t"))}


@pytest.fixture
def clean(tmp_path: Path) -> dict[str, bytes]:
    """What an undisturbed run makes of the second content."""
    write_input(tmp_path, seed=5)
    run(config_of(tmp_path), Store(f"{tmp_path}/clean"))
    return published(tmp_path / "clean")


@pytest.mark.parametrize("missing", [(3,), (0,), (1, 2, 3)])
def test_an_input_replaced_between_two_runs_is_published_whole(
    tmp_path: Path, clean: dict[str, bytes], missing: tuple[int, ...]
) -> None:
    """A run is killed with parts staged, the shard is replaced under its name, the run goes on."""
    store = Store(f"{tmp_path}/out")
    write_input(tmp_path)
    run(config_of(tmp_path), store, order=all_but(*missing))  # type: ignore[arg-type]
    assert len(staged_parts(store, "0")) == 4 - len(missing)
    digest = write_input(tmp_path, seed=5)
    run(config_of(tmp_path), store)
    assert published(tmp_path / "out") == clean
    marker = read_marker(store, "0")
    assert marker is not None
    assert (marker.input_sha256, marker.generation) == (digest, digest[:12])
    assert verify(store).problems == []
    assert list(store.list("_parts/")) == []


def test_verify_compares_the_inputs_with_what_was_edited(tmp_path: Path) -> None:
    """An input that is replaced after its shard was published is named, if it is asked for."""
    write_input(tmp_path)
    store = Store(f"{tmp_path}/out")
    run(config_of(tmp_path), store)
    entry = {"url": f"{tmp_path}/in/0.tar", "name": "0", "size": 1, "etag": None}
    store.put("_run/inputs.json", json.dumps([entry]).encode())
    assert verify(store, inputs=True).problems == []
    write_input(tmp_path, seed=5)
    assert verify(store).problems == []
    (line,) = verify(store, inputs=True).problems
    assert line == f"0: the input {tmp_path}/in/0.tar is not the one that was edited"
    (tmp_path / "in/0.tar").unlink()
    assert "cannot be read" in verify(store, inputs=True).problems[0]


def test_of_two_complete_sets_one_is_published_by_all(
    tmp_path: Path, clean: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two drivers listed different contents; a second task publishes at each call of the first."""
    for content in (0, 5):
        write_input(tmp_path, seed=content)
        run(config_of(tmp_path), Store(f"{tmp_path}/of{content}"), order=all_but(3))  # type: ignore[arg-type]
    points: list[str] = []
    both = Store(f"{tmp_path}/both")
    for content in (0, 5):
        write_input(tmp_path, seed=content)
        own = Store(f"{tmp_path}/whole{content}")
        with monkeypatch.context() as patch:
            patch.setattr("tests.committing.publish_if_complete", lambda *_: None)
            run(config_of(tmp_path), own)
        for name in own.list():
            both.put(name, own.get(name))
    assert len(staged_parts(both, "0")) == 8
    seen: set[str] = set()

    def second_task(when: str, operation: str, name: str) -> None:
        point = f"{when} {operation} {name}"
        if point in seen or "second" in seen:
            return
        seen.update((point, "second"))
        points.append(point)
        publish_if_complete(Store(both.url), "0")
        seen.remove("second")

    before = contents(tmp_path / "both")
    while True:
        count = len(points)
        restore(both, before)
        monkeypatch.setattr(Store, "hook", staticmethod(second_task))
        publish_if_complete(both, "0")
        monkeypatch.setattr(Store, "hook", None)
        assert verify(both).problems == []
        assert list(both.list("_parts/")) == []
        if len(points) == count:
            break
    assert len(points) > 20


def restore(store: Store, before: dict[str, bytes]) -> None:
    for name in list(store.list()):
        store.delete(name)
    for name, data in before.items():
        store.put(name, data)


def test_a_damaged_part_is_deleted_and_computed_again(
    tmp_path: Path, clean: dict[str, bytes]
) -> None:
    """A flipped bit anywhere, a cut, another part under its name, an empty file."""
    store = Store(f"{tmp_path}/out")
    run(config_of(tmp_path), store, order=all_but(3))  # type: ignore[arg-type]
    before = contents(tmp_path / "out")
    victim, other = staged_parts(store, "0")[:2]
    whole = store.get(victim.name)
    generator = np.random.default_rng(0)
    damaged = [b"", whole[: len(whole) // 2], whole + b"x", store.get(other.name)]
    for place in generator.integers(0, len(whole), 20):
        data = bytearray(whole)
        data[place] ^= 1 << int(generator.integers(8))
        damaged.append(bytes(data))
    for wrong in damaged:
        restore(store, before)
        store.put(victim.name, wrong)
        run(config_of(tmp_path), store, order=lambda parts: list(parts)[3:])
        assert not store.exists("0_stats.json"), "published with a damaged part"
        assert not store.exists(victim.name)
        run(config_of(tmp_path), store)
        assert published(tmp_path / "out") == clean


def test_a_damaged_claim_is_written_again(tmp_path: Path, clean: dict[str, bytes]) -> None:
    """It names a set that is not there: cut, or of parts that are gone."""
    store = Store(f"{tmp_path}/out")
    run(config_of(tmp_path), store, order=all_but(3))  # type: ignore[arg-type]
    for claim in (b"", b"\xff\xfe", b"000000000000 4"):
        store.put(claim_name("0"), claim)
        run(config_of(tmp_path), store)
        assert published(tmp_path / "out") == clean
        store.delete("0_stats.json")
        run(config_of(tmp_path), store, order=all_but(3))  # type: ignore[arg-type]


def test_a_driver_that_sweeps_while_refilter_stages_loses_nothing(
    tmp_path: Path, clean: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts that refilter stages look like leftovers of a published shard to it."""
    store = Store(f"{tmp_path}/out")
    run(config_of(tmp_path), store)
    wanted = filtering_of(["mask_area <= 0.1"])
    swept: list[str] = []

    def other_driver(when: str, operation: str, name: str) -> None:
        if (when, operation, name) == ("before", "delete", "0_stats.json") and not swept:
            swept.append(name)
            assert len(sweep(Store(store.url))) == 4

    monkeypatch.setattr(Store, "hook", staticmethod(other_driver))
    done = refilter(store, wanted)
    monkeypatch.setattr(Store, "hook", None)
    assert swept
    assert (done.problems, done.shards) == ([], ["0"])
    assert verify(store).problems == []


def test_a_shard_that_refilter_cannot_publish_is_named(
    tmp_path: Path, clean: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the other driver sweeps each time, refilter says so and does not count it as done."""
    store = Store(f"{tmp_path}/out")
    run(config_of(tmp_path), store)

    def other_driver(when: str, operation: str, name: str) -> None:
        if (when, operation, name) == ("before", "delete", "0_stats.json"):
            for part in staged_parts(store, "0"):
                (Path(store.url) / part.name).unlink()

    monkeypatch.setattr(Store, "hook", staticmethod(other_driver))
    done = refilter(store, filtering_of(["mask_area <= 0.1"]))
    monkeypatch.setattr(Store, "hook", None)
    assert "removed by another run, so it is no longer published" in done.problems[0]
    assert done.shards == []
