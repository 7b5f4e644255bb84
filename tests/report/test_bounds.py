"""What the report's images may take: the process that draws it has no watchdog."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipeline.report.images as images
from pipeline.images.files import decode_image
from pipeline.plan.plan import Plan
from pipeline.report.images import ShardImages, SmallImages
from pipeline.report.outputs import read_output
from pipeline.storage.shards import InputShard
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard

NUM_IMAGES = 6
PIXELS = 64 * 48  # of each image of ``raw_sample``


def published(folder: Path, **members: Any) -> Plan:
    """A shard of edited images at their own size, with these members in each sample."""
    samples = [raw_sample(f"{number}", seed=number, **members) for number in range(NUM_IMAGES)]
    write_shard(folder / "in/0.tar", samples)
    output = {"resolution": "source"}
    return run_fake(fake_plan(f"{folder}/in/*.tar", f"{folder}/out", output=output))


def drawn(plan: Plan, **changes: object) -> list[SmallImages]:
    """The images of the rows, in which these columns are changed."""
    rows = [row | changes for row in read_output(plan.output).rows.to_pylist()]
    entry = InputShard(plan.config.input.shards[:-5] + "0.tar", "0", 0)  # type: ignore[operator]
    found = ShardImages(plan.output, plan.config, {"0": entry}, side=32).read("0", rows)
    return list(found.values())


@pytest.mark.parametrize("error", ["TimedOut", "PartLost"])
def test_an_image_with_which_a_worker_hung_or_died_is_not_decoded(
    tmp_path: Path, error: str
) -> None:
    """It would hang or end the report too."""
    plan = published(tmp_path)
    assert all(shown.before is not None for shown in drawn(plan))
    assert all(shown.before is None for shown in drawn(plan, status="failed", error=error))


@pytest.mark.parametrize(("room", "most"), [(PIXELS - 1, 1), (PIXELS, 1), (2 * PIXELS, 2)])
def test_images_that_are_decoded_at_once_have_a_number_of_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, most: int
) -> None:
    """Whatever the number of threads; an image that is larger is decoded alone."""
    plan = published(tmp_path)
    lock, now, counts = threading.Lock(), 0, []

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def decode(*arguments: Any, **options: Any) -> Any:
            nonlocal now
            with lock:
                now += 1
                counts.append(now)
            time.sleep(0.02)
            try:
                return call(*arguments, **options)
            finally:
                with lock:
                    now -= 1

        return decode

    monkeypatch.setattr(images, "THREADS", 4)
    monkeypatch.setattr(images, "PIXELS_AT_ONCE", room)
    monkeypatch.setattr(images, "decode_image", counted(decode_image))
    shown = drawn(plan)
    assert all(image.before and image.after and image.mask for image in shown)
    assert (len(counts), max(counts)) == (2 * NUM_IMAGES, most)


def test_files_that_are_not_shown_are_not_copied(tmp_path: Path) -> None:
    """A shard's tar may be large because of what was passed through."""
    plan = published(tmp_path, npy=bytes(4 << 20))
    rows = read_output(plan.output).rows.to_pylist()
    reader = ShardImages(plan.output, None, {}, side=32)
    reader.read("0", rows[:1])  # imports what it needs
    tracemalloc.start()
    try:
        shown = reader.read("0", rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(image.after is not None for image in shown.values())
    assert peak < 1.5 * NUM_IMAGES * (4 << 20)
