"""Images keep their shape: seen but for less than a step a side, and put back where they were."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config.buckets import Size, Sizes
from pipeline.config.config import Config
from pipeline.images.composite import CUT_NOTE
from pipeline.images.geometry import placement_of
from pipeline.records.part import Edit, Part, Sample
from pipeline.records.rows import ROW_SCHEMA, completed, rows_of
from pipeline.steps.finish import finish
from pipeline.steps.prepare import MASK_CROPPED_NOTE, Preparation, prepare
from tests.committing import make_config, make_context
from tests.images.test_geometry import shapes
from tests.samples import encode

SIDE, STEP, SCALE = 128, 16, 8  # pixels; the bundled model's
ADDED = 60  # levels that the stand-in for the stages adds to every pixel


def coded(size: Size) -> np.ndarray:
    """(H, W, 3) uint8: red rises from left to right, green from top to bottom."""
    width, height = size
    image = np.full((height, width, 3), 90, np.uint8)
    image[..., 0] = np.linspace(0, 190, width)
    image[..., 1] = np.linspace(0, 190, height)[:, None]
    return image


def config_of(resolution: str, **model: Any) -> Config:
    tree = {"buckets": "auto", **model}
    method = {"composite": {"feather": 0}}
    return make_config(output={"resolution": resolution}, model=tree, method=method)


def sample_of(size: Size, **changes: Any) -> Sample:
    encoded = encode(coded(size))
    return Sample("k", "a dog", "png", encoded=encoded, edits=[Edit(0, "a cat")], **changes)


def prepared(config: Config, *samples: Sample) -> Part:
    buckets = config.model.buckets
    listed = buckets if isinstance(buckets, str) else tuple(buckets)
    sizes = Sizes(SIDE, STEP, buckets=listed)
    return prepare(Part("s", 0, 1, list(samples)), Preparation.of(config, sizes))


def brighten(part: Part, mask: np.ndarray | None = None) -> Part:
    """A stand-in for the stages: adds to every pixel, and masks the whole image."""
    for sample in part.samples:
        assert sample.image is not None
        height, width = sample.image.shape[:2]
        for edit in sample.pending:
            grid = (height // SCALE, width // SCALE)
            edit.mask = np.ones(grid, np.float32) if mask is None else mask
            edit.image = sample.image + ADDED
    return part


def finished(part: Part, config: Config) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """The rows of a part, and its written images."""
    table = finish(part, make_context(config)).table
    assert table is not None
    rows = table.to_pylist()
    images = []
    for row in rows:
        members = {item["suffix"]: item["data"] for item in row["members"]}
        images.append(np.asarray(Image.open(io.BytesIO(members["png"])).convert("RGB")))
        assert "model_width" not in json.loads(members["json"])
    return rows, images


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_64_shapes_are_edited_and_put_back_in_place(resize: str) -> None:
    """With source: every pixel is its own, brighter, but for less than a step a side.

    A pixel of the wrong place would have another red or green.
    """
    config = config_of("source", resize=resize)
    every = shapes(256)
    part = prepared(config, *map(sample_of, every))
    rows, images = finished(brighten(part), config)
    for source, row, image in zip(every, rows, images, strict=True):
        assert row["status"] == "edited"
        assert image.shape == (source[1], source[0], 3)
        size = row["model_width"], row["model_height"]
        assert size[0] % STEP == size[1] % STEP == 0
        placement = placement_of(config.model, source, size)
        left, top, right, bottom = placement.shown
        inside = np.zeros(image.shape[:2], bool)
        inside[top:bottom, left:right] = True
        change = image.astype(int) - coded(source)
        assert np.abs(change[inside] - ADDED).max() <= 6
        assert not change[~inside].any()
        lost = np.array([source[0] - (right - left), source[1] - (bottom - top)])
        assert (lost * placement.scale < STEP).all()
        assert not lost.any() or resize == "crop"
        assert row["notes"] == ([CUT_NOTE] if lost.any() else [])
        assert row["mask_box"] == list(placement.shown)


def test_written_at_the_models_size_each_has_its_own_shape() -> None:
    """Width and height are those that the model saw."""
    config = config_of("model")
    every = shapes(256)
    rows, images = finished(brighten(prepared(config, *map(sample_of, every))), config)
    for source, row, image in zip(every, rows, images, strict=True):
        assert (row["width"], row["height"]) == (row["model_width"], row["model_height"])
        assert image.shape == (row["height"], row["width"], 3)
        assert (source[0] > source[1]) == (row["width"] > row["height"]) or row["width"] == SIDE
        assert np.abs(image.reshape(-1, 3).mean(0) - [95 + ADDED, 95 + ADDED, 90 + ADDED]).max() < 8


@pytest.mark.parametrize("source", [(400, 20), (20, 400), (400, 1)])
def test_extreme_shapes_are_seen_whole(source: Size) -> None:
    """1:20 and beyond: padded to 1:4, edited, and put back whole."""
    config = config_of("source")
    rows, images = finished(brighten(prepared(config, sample_of(source))), config)
    assert sorted((rows[0]["model_width"], rows[0]["model_height"])) == [64, 256]
    assert rows[0]["notes"] == []
    # the longer side is scaled down and up again, so an edge is blurred over a pixel
    change = images[0].astype(int) - coded(source)
    assert np.abs(change - ADDED).max() <= 8
    config = config_of("model", resize="crop")
    (row,), (image,) = finished(brighten(prepared(config, sample_of(source))), config)
    assert (row["status"], row["notes"]) == ("edited", [])
    channel = 0 if source[0] > source[1] else 1  # it rises along the longer side
    assert np.ptp(image[..., channel]) >= 185  # of 190: nothing is cut off, though crop is asked


@pytest.mark.parametrize("source", [(320, 240), (200, 300)])
def test_a_supplied_mask_goes_where_the_image_goes(source: Size) -> None:
    """Its box in the original is the box of the edited pixels there, up to a pixel."""
    config = config_of("source")
    mask = np.zeros(source[::-1], np.uint8)
    mask[40:100, 60:160] = 255
    part = prepared(config, sample_of(source, encoded_mask=encode(mask)))
    (sample,) = part.samples
    assert sample.image is not None
    assert sample.supplied_mask is not None
    assert sample.supplied_mask.shape == sample.image.shape[:2]
    (row,), (image,) = finished(brighten(part), config)
    assert row["mask_box"] == pytest.approx([60, 40, 160, 100], abs=2)
    changed = (image != coded(source)).any(2)
    assert changed[45:95, 65:155].all()
    changed[37:103, 57:163] = False
    assert not changed.any()


def test_a_supplied_mask_beyond_the_cut_is_noted() -> None:
    """Where less than a step is cut off, a mask that lies there is still not edited."""
    source, mask = (300, 240), np.zeros((240, 300), np.uint8)
    mask[:, :1] = 255
    for resize, notes in (("crop", [MASK_CROPPED_NOTE]), ("pad", [])):
        config = config_of("model", resize=resize)
        part = prepared(config, sample_of(source, encoded_mask=encode(mask)))
        assert part.samples[0].edits[0].notes == notes


def test_a_listed_size_is_padded() -> None:
    """The nearest shape, with the whole image in it."""
    config = config_of("model", buckets=[[128, 64], [96, 96]])
    part = prepared(config, sample_of((200, 100)), sample_of((160, 100)), sample_of((90, 100)))
    shapes_found = [sample.image.shape[:2] for sample in part.samples if sample.image is not None]
    assert shapes_found == [(64, 128), (64, 128), (96, 96)]
    padded = part.samples[1].image
    assert padded is not None
    left = placement_of(config.model, (160, 100), (128, 64)).target[0]
    assert left == 13
    assert (padded[:, :left] == padded[:, left : left + 1]).all()


def test_rows_without_the_sizes_are_read() -> None:
    """An output from before there were these columns: they are null."""
    config = config_of("model")
    table = finish(brighten(prepared(config, sample_of((64, 48)))), make_context(config)).table
    assert table is not None
    old = table.drop_columns(["model_width", "model_height"])
    assert completed(old).schema.equals(table.schema)
    (row,) = rows_of(completed(old))
    assert (row.width, row.model_width, row.model_height) == (144, None, None)
    rows = old.drop_columns(["members"])
    assert completed(rows).schema.equals(ROW_SCHEMA)
    assert completed(pa.table({"x": [1]})).num_rows == 1
