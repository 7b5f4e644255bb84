"""What reads a published or mixed tar leaves it on the disk, and does as with one in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.filters import filtering_of
from pipeline.mix.mix import run_mix
from pipeline.mix.plan import make_mix_plan
from pipeline.mix.verify import verify_mix
from pipeline.report.page import REPORT_FILE, write_report
from pipeline.republish.refilter import refilter
from pipeline.republish.retry_failed import reopen_failed
from pipeline.steps.verify import verify
from pipeline.storage import content as content_module
from pipeline.storage import scratch
from pipeline.storage.archive import find_members
from pipeline.storage.content import FileContent
from pipeline.storage.scratch import Spool
from pipeline.storage.store import Store
from tests.fake_job import fake_plan, run_fake
from tests.mix.boxed import FORMATS, make_boxed, mix_of
from tests.samples import raw_sample, write_shard

LOOSE, TIGHT = ["mask_area <= 0.9"], ["mask_area <= 0"]
WINDOW = 600  # bytes, below every shard


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on every object is large, and no tar may be held."""
    read, get = FileContent.__getitem__, Store.get

    def one_file(self: FileContent, place: slice) -> bytes:
        data = read(self, place)
        assert len(data) < len(self) / 2 or not self._what.endswith(".tar"), "a whole tar is read"
        return data

    def no_tar(self: Store, name: str, **options: Any) -> bytes:
        assert not name.endswith(".tar"), f"{name} is held"
        return get(self, name, **options)

    def refused(self: Spool) -> bytes:
        assert self.path is None, "a spool is held"
        return b""

    def begin() -> None:
        monkeypatch.setattr(scratch, "HELD_BYTES", 0)
        monkeypatch.setattr(content_module, "WINDOW", WINDOW)
        monkeypatch.setattr(FileContent, "__getitem__", one_file)
        monkeypatch.setattr(Store, "get", no_tar)
        monkeypatch.setattr(Spool, "getvalue", refused)

    return begin


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., Store]:
    """Makes an output with edited and failed rows."""
    samples = [raw_sample(name, ["a cat", name], seed=len(name)) for name in ("a", "bb", "bad")]
    write_shard(tmp_path / "in/0.tar", samples)

    def make(folder: str, **options: Any) -> Store:
        plan = fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/{folder}", filters=LOOSE)
        run_fake(plan, **options)
        return plan.output

    return make


def objects(store: Store) -> dict[str, bytes]:
    """All objects by name, without the run's own files and the markers' times."""
    root = Path(store.url)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in files
        if path.suffix in (".tar", ".parquet", ".jpg", ".png", ".txt", ".jsonl", ".arrow")
    }


@pytest.mark.parametrize("form", ["webdataset", *FORMATS])
def test_a_mix_of_large_shards_is_the_same(
    tmp_path: Path, large: Callable[[], None], form: str
) -> None:
    """In every format, byte for byte; so is its audit, and a mix that goes on."""
    make_boxed(tmp_path)
    plan = make_mix_plan(mix_of(tmp_path, tmp_path / "held", format=form))
    manifest = run_mix(plan)
    large()
    plan = make_mix_plan(mix_of(tmp_path, tmp_path / "large", format=form))
    assert run_mix(plan) == manifest
    held, found = objects(Store(f"{tmp_path}/held")), objects(Store(f"{tmp_path}/large"))
    assert found == held
    assert found
    assert verify_mix(plan.output).problems == []
    assert run_mix(plan) == manifest


def test_the_audit_of_a_large_shard_is_the_same(
    begin: Callable[..., Store], large: Callable[[], None]
) -> None:
    """Right and damaged alike: a flipped bit in a file, and an end that is cut."""
    outputs = [begin(name) for name in ("right", "flipped", "cut")]
    flipped = bytearray(outputs[1].get("0.tar"))
    flipped[700] ^= 1
    outputs[1].put("0.tar", bytes(flipped))
    outputs[2].put("0.tar", outputs[2].get("0.tar")[:-3000])
    held = [verify(store) for store in outputs]
    assert [bool(report.problems) for report in held] == [False, True, True]
    large()
    assert [verify(store) for store in outputs] == held


def test_a_tar_that_is_overwritten_during_its_audit_is_a_problem(
    begin: Callable[..., Store], large: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its sha256 was found right; the audit goes on."""
    store = begin("out")
    large()

    def overwritten(tar: Any) -> Any:
        found = find_members(tar)
        with open(f"{store.url}/0.tar", "r+b") as file:
            file.write(b"other")
        return found

    monkeypatch.setattr("pipeline.steps.verify_members.find_members", overwritten)
    assert verify(store).problems == ["0: 0.tar cannot be read: StorageError"]


def test_a_large_shard_is_refiltered_alike(
    begin: Callable[..., Store], large: Callable[[], None]
) -> None:
    """Images are rejected, and come back: both tars are taken apart."""
    store, other = begin("held"), begin("large")
    loose = objects(store)
    refilter(store, filtering_of(TIGHT))
    tight = objects(store)
    assert tight != loose
    large()
    assert refilter(other, filtering_of(TIGHT)).problems == []
    assert objects(other) == tight
    assert refilter(other, filtering_of(LOOSE)).problems == []
    assert objects(other) == loose


def test_failed_rows_of_a_large_shard_are_retried_alike(
    begin: Callable[..., Store], large: Callable[[], None], tmp_path: Path
) -> None:
    """The parts that stay are those that were staged; the input is not read into memory either."""
    shutil.copytree(begin("held", failing=["bad"]).url, tmp_path / "large")
    plans = [
        fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/{folder}", filters=LOOSE)
        for folder in ("held", "large")
    ]
    held = reopen_failed(plans[0])
    assert (held.shards, held.problems) == (["0"], [])
    staged = objects(plans[0].output)
    assert any(name.endswith(".arrow") for name in staged)
    large()
    assert reopen_failed(plans[1]).shards == ["0"]
    assert objects(plans[1].output) == staged


def test_the_report_of_a_large_shard_is_the_same(
    begin: Callable[..., Store], large: Callable[[], None]
) -> None:
    """Its images before and after, of the input's tar and the output's."""
    store = begin("out")
    written = write_report(store)
    page = store.get(REPORT_FILE)
    assert written.num_with_images
    large()
    assert write_report(store) == written
    assert store.get(REPORT_FILE) == page
