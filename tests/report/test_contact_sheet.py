"""The contact sheet shows the images that were read and written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config.load import parse_config
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import Plan, make_plan
from pipeline.report.contact_sheet import GAP, TILE, contact_sheet
from tests.samples import encode, write_shard

HEADER = 24


def run(folder: Path, model: Path, edit_text: str, height: int = 32) -> Plan:
    """Runs one edit of a blue image in its own shape."""
    blue = np.full((height, 32, 3), (20, 40, 200), np.uint8)
    one = {"__key__": "a", "png": encode(blue), "txt": "a dog", "edit.txt": edit_text}
    write_shard(folder / "in/0.tar", [one])
    config = parse_config(
        {
            "input": {"shards": f"{folder}/in/*.tar"},
            "output": {"path": f"{folder}/out", "format": "png", "difference_map": True},
            "model": {"path": str(model), "buckets": "auto"},
            "method": {"steps": 2, "mask": {"num_noises": 1}},
        }
    )
    return run_loop(make_plan(config, "cpu"))


def tile(sheet: Image.Image, number: int) -> np.ndarray:
    """The inside of one of the first edit's tiles, without its resampled border."""
    left = GAP + number * (TILE + GAP)
    box = (left + 8, HEADER + 8, left + TILE - 8, HEADER + TILE - 8)
    return np.asarray(sheet.crop(box))


def test_sheet_shows_before_mask_and_after(tmp_path: Path, tiny_model_folder: Path) -> None:
    """The tiles show the input image, the mask in black and white, and the output image."""
    data = contact_sheet(run(tmp_path, tiny_model_folder, "a red cat"))
    assert data is not None
    sheet = Image.open(io.BytesIO(data))
    assert np.ptp(tile(sheet, 0).reshape(-1, 3), axis=0).max() == 0
    assert tile(sheet, 0)[0, 0].tolist() == [20, 40, 200]
    mask = tile(sheet, 2)
    assert (mask[..., 0] == mask[..., 1]).all()
    assert mask.max() > 200
    assert (tile(sheet, 3) != tile(sheet, 0)).any()


def test_tiles_keep_the_shape_of_their_images(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Of a high image each tile shows a high one in its middle, and paper on both sides."""
    data = contact_sheet(run(tmp_path, tiny_model_folder, "a red cat", height=64))
    assert data is not None
    sheet = Image.open(io.BytesIO(data))
    for number in range(4):
        inside = tile(sheet, number)
        assert (inside[:, :20] == inside[:, -20:]).all()
        assert inside[5, 5].tolist() == [250, 250, 248]
    assert tile(sheet, 0)[:, 40:-40].reshape(-1, 3).min(0).tolist() == [20, 40, 200]


def test_run_without_edits_has_no_sheet(tmp_path: Path, tiny_model_folder: Path) -> None:
    """If nothing was edited, the contact sheet is None."""
    assert contact_sheet(run(tmp_path, tiny_model_folder, "a dog")) is None
