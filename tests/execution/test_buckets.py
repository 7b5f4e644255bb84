"""A run over images of many shapes: killed and resumed, at both resolutions, to the report."""

from __future__ import annotations

import io
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.config import Config
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import make_plan
from pipeline.report.images import ShardImages
from pipeline.stages.build import load_stages
from pipeline.steps.verify import verify
from pipeline.storage.saved_inputs import saved_inputs
from tests.committing import make_config
from tests.samples import encode, pixels, raw_sample, write_shard

# (height, width) of the originals: seven sizes of the model's image in three parts
SHAPES = ((48, 64), (64, 48), (40, 40), (48, 64), (20, 90), (64, 48), (90, 20), (33, 64), (8, 160))
STEP = 4  # of the small model's sides, in pixels


def config_of(folder: Path, model: Path, output: str, resolution: str = "model") -> Config:
    return make_config(
        f"{folder}/in/*.tar",
        output={"path": f"{folder}/{output}", "resolution": resolution},
        model={"path": str(model), "buckets": "auto"},
        method={"steps": 3, "mask": {"num_noises": 1, "floor": 0.0}},
        run={"part_size": 4},
    )


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    samples = []
    for number, (height, width) in enumerate(SHAPES):
        sample = raw_sample(f"k{number}", ["a cat", "a dog"] if number == 3 else ["a red cat"])
        samples.append(sample | {"png": encode(pixels(number, height, width))})
    return write_shard(tmp_path / "in/0.tar", samples)


def published(folder: Path) -> dict[str, bytes]:
    """The bytes of tar and Parquet file."""
    return {name: (folder / name).read_bytes() for name in ("0.tar", "0.parquet")}


def killed_run(config: Config, stages: Any) -> None:
    """Runs the loop in this process until the first part is committed, and dies."""
    import os

    run_loop(make_plan(config, "cpu"), lambda result: os._exit(9), stages, beside=False)


@pytest.mark.parametrize("resolution", ["model", "source"])
def test_a_killed_run_is_resumed_with_the_same_bytes(
    shard: Path, tmp_path: Path, tiny_model_folder: Path, resolution: str
) -> None:
    """Killed after its first part; a part's sizes are computed as in an unbroken run."""
    whole = config_of(tmp_path, tiny_model_folder, "whole", resolution)
    stages = load_stages(whole, "fused", "cpu")
    assert run_loop(make_plan(whole, "cpu"), stages=stages).work == []
    broken = config_of(tmp_path, tiny_model_folder, "broken", resolution)
    process = multiprocessing.get_context("fork").Process(
        target=killed_run, args=(broken, stages), daemon=True
    )
    process.start()
    process.join(120)
    assert process.exitcode == 9
    assert len(list((tmp_path / "broken/_parts").rglob("*.arrow"))) == 1
    assert not (tmp_path / "broken/0.tar").exists()
    plan = run_loop(make_plan(broken, "cpu"), stages=stages)
    assert plan.work == []
    assert published(tmp_path / "broken") == published(tmp_path / "whole")
    assert verify(plan.output).problems == []
    rows = pq.read_table(tmp_path / "whole/0.parquet").to_pylist()
    statuses = [row["status"] for row in rows]
    assert statuses.count("edited") == len(SHAPES)
    assert statuses.count("unchanged") == 1  # its text is the caption
    for row in rows:
        size = row["model_width"], row["model_height"]
        assert size[0] % STEP == size[1] % STEP == 0
        assert 0.8 < size[0] * size[1] / 32**2 < 1.3
        source = row["source_width"], row["source_height"]
        if row["status"] == "edited":
            assert (row["width"], row["height"]) == (source if resolution == "source" else size)


def test_the_report_shows_both_images_in_one_shape(
    shard: Path, tmp_path: Path, tiny_model_folder: Path
) -> None:
    """The image before is prepared as the run did, also where it was padded to 1:4."""
    config = config_of(tmp_path, tiny_model_folder, "out")
    plan = run_loop(make_plan(config, "cpu"))
    rows = pq.read_table(tmp_path / "out/0.parquet").to_pylist()
    reader = ShardImages(plan.output, config, saved_inputs(plan.output), 256)
    images = reader.read("0", rows)
    assert reader.missing_inputs == {}
    for row in rows:
        small = images[row["key"], row["edit_index"]]
        assert small.before is not None
        before = Image.open(io.BytesIO(small.before)).convert("RGB")
        assert before.size == (row["model_width"], row["model_height"])
        if small.after is not None:
            assert Image.open(io.BytesIO(small.after)).size == before.size
        if row["key"] == "k8":  # 8 x 160, padded above and below with its own edge
            shown = np.asarray(before).astype(int)
            assert np.abs(shown[0] - shown[3]).max() < 40
