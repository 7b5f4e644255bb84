"""Boxes and masks of classes follow their image, and say what the edit mask covers."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.buckets import Sizes
from pipeline.config.input import Input
from pipeline.config.labels import Labels
from pipeline.config.load import ConfigError, parse_config
from pipeline.images.geometry import place
from pipeline.records.part import Edit, Part, Sample
from pipeline.steps.boxes import Place
from pipeline.steps.labels import Followed, Texts, follow
from pipeline.steps.prepare import Preparation, prepare
from tests.committing import SIZE, make_config, make_context, table_of
from tests.samples import encode

MODES = [
    *(("crop", "model"), ("pad", "model"), ("stretch", "model")),
    *(("crop", "source"), ("pad", "source"), ("stretch", "source")),
    *(("buckets", "model"), ("buckets", "source")),
]
NUM_SAMPLES = 1000
READ = Input(shards="in")
MARGIN = 3
CLASSES = {"dog": 18, "cat": 17, "fox": 3}
DOG = {"id": 18, "name": "dog"}


def boxes_json(
    *boxes: Sequence[float], size: tuple[int, int] | None = None, **changes: Any
) -> bytes:
    annotations = [{"bbox": box, "category_id": 18} for box in boxes]
    width, height = size or (None, None)
    tree = {"width": width, "height": height, "annotations": annotations, "categories": [DOG]}
    return json.dumps(tree | changes).encode()


def same_image(part: Part) -> Part:
    """A stand-in for the stages: the image itself, and a mask of its upper left quarter."""
    for sample in part.samples:
        for edit in sample.pending:
            edit.mask = np.zeros((4, 4), np.float32)
            edit.mask[:2, :2] = 1
            edit.image = sample.image
    return part


def painted(number: int) -> tuple[np.ndarray, list[int]]:
    """A black image of a random size with a white box, and the box as x, y, width, height.

    The box does not touch the image's edge, whose pixels the padding repeats.
    """
    generator = np.random.default_rng(number)
    width, height = (int(side) for side in generator.integers(24, 97, 2))
    left, top = (int(generator.integers(MARGIN, side - 15)) for side in (width, height))
    right = int(generator.integers(left + 12, width - MARGIN + 1))
    bottom = int(generator.integers(top + 12, height - MARGIN + 1))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    return pixels, [left, top, right - left, bottom - top]


def seen_box(pixels: np.ndarray) -> list[int] | None:
    """The white box of an image, as x0, y0, x1, y1."""
    rows, columns = (np.flatnonzero((pixels[..., 0] >= 128).any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize(("resize", "resolution"), MODES)
def test_boxes_of_random_samples_are_right_to_a_pixel(resize: str, resolution: str) -> None:
    """The box that is painted lies where the written file says, in the written image."""
    model = {"buckets": "auto"} if resize == "buckets" else {"buckets": "square", "resize": resize}
    config = make_config(model=model, output={"resolution": resolution})
    sizes = Sizes(SIZE, 8, buckets="auto" if resize == "buckets" else "square")
    share = len(range(MODES.index((resize, resolution)), NUM_SAMPLES, len(MODES)))
    samples, shapes = [], []
    for number in range(share):
        pixels, box = painted(MODES.index((resize, resolution)) + number * len(MODES))
        shapes.append((pixels.shape, box))
        size = (pixels.shape[1], pixels.shape[0])
        extras = {"boxes.json": boxes_json(box, size=size)}
        samples.append(
            Sample(str(number), "a dog", "png", encode(pixels), extras=extras, edits=[Edit(0, "b")])
        )
    part = same_image(prepare(Part("s", 0, 1, samples), Preparation.of(config, sizes)))
    seen, unseen = 0, 0
    for row, (shape, box) in zip(
        table_of(part, make_context(config)).to_pylist(), shapes, strict=True
    ):
        assert row["status"] == "edited", row["message"]
        files = {member["suffix"]: member["data"] for member in row["members"]}
        written = np.asarray(Image.open(io.BytesIO(files["png"])))
        tree = json.loads(files["boxes.json"])
        assert (tree["height"], tree["width"]) == written.shape[:2]
        found = seen_box(written)
        if not tree["annotations"]:
            assert row["boxes_covered"] == [None]
            assert found is None
            unseen += 1
            continue
        x, y, width, height = tree["annotations"][0]["bbox"]
        if min(width, height) < 1:  # too little of it to be seen
            continue
        assert found is not None
        assert np.abs(np.subtract(found, [x, y, x + width, y + height])).max() <= 1, (shape, box)
        if resolution == "source":
            assert tree["annotations"][0]["bbox"] == box
        mask = np.asarray(Image.open(io.BytesIO(files["mask.png"]))) > 0
        left, top, right, bottom = found
        cover = mask[top:bottom, left:right].mean()
        assert row["boxes_covered"] == [pytest.approx(cover, abs=0.25)]
        seen += 1
    assert seen > 0.8 * share
    assert unseen == 0 or resize in ("crop", "buckets")


def test_a_covered_share_is_that_of_the_boxes_pixels() -> None:
    """A half covered box has 0.5, an untouched one 0, one outside of the crop null."""
    inside = np.zeros((10, 20), bool)
    inside[:, :5] = True
    boxes = boxes_json([0, 0, 10, 10], [5, 0, 5, 10], [25, 2, 4, 4], [4.5, 0, 1, 1])
    found = followed(boxes, inside=inside)
    assert found.covered == [0.5, 0.0, None, 0.5]
    tree = json.loads(found.members["boxes.json"])
    assert [box["covered"] for box in tree["annotations"]] == [0.5, 0.0, 0.5]
    assert (tree["width"], tree["height"]) == (20, 10)


def followed(
    boxes: bytes,
    *,
    inside: np.ndarray | None = None,
    to: tuple[int, int] | None = None,
    texts: tuple[str, str] = ("a dog", "a cat"),
    size: tuple[int, int] = (20, 10),
    **labels: Any,
) -> Followed:
    """The labels of an edit at its source's size, or cropped to another one."""
    where = Place(place(size, to or size, "crop"), "model")
    return follow(
        {"boxes.json": boxes, "cls": b"7"},
        texts=Texts(*texts),
        place=where,
        inside=np.ones(size[::-1], bool) if inside is None else inside,
        read=READ,
        labels=Labels.model_validate(labels),
    )


def test_other_shapes_of_an_annotation_move_too() -> None:
    """Polygons and areas are scaled and cut; run lengths, which do not fit any more, are not kept.

    Fields that are no shape stay, and so do the sample's other files.
    """
    boxes = boxes_json(
        annotations=[
            {
                "bbox": [0, 0, 10, 10],
                "area": 100,
                "iscrowd": 0,
                "category_id": 18,
                "segmentation": [[0, 0, 10, 0, 10, 10]],
            },
            {"bbox": [10, 0, 4, 4], "segmentation": {"counts": "x", "size": [10, 20]}},
        ]
    )
    found = followed(boxes, inside=np.zeros((20, 20), bool), to=(20, 20))
    first, second = json.loads(found.members["boxes.json"])["annotations"]
    assert first == {
        "bbox": [0, 0, 10, 20],
        "area": 200,
        "iscrowd": 0,
        "category_id": 18,
        "covered": 0.0,
        "segmentation": [[0, 0, 10, 0, 10, 20]],
    }
    assert second == {"bbox": [10, 0, 8, 8], "covered": 0.0}
    assert found.members["cls"] == b"7"


@pytest.mark.parametrize(
    ("mode", "texts", "category", "note"),
    [
        ("keep", ("a dog", "a cat"), 18, None),
        ("drop", ("a dog", "a cat"), None, "1 boxes were left out: the edit mask covers them"),
        ("relabel", ("a dog", "a cat"), 17, "1 boxes have the class of the edit text"),
        ("relabel", ("a pet", "a Cat and a cow"), 17, "1 boxes have the class of the edit text"),
        ("relabel", ("a dog and a cat", "a fox and a cat"), 3, "1 boxes have the class"),
        ("relabel", ("a dog", "a cat or a fox"), None, "1 boxes were left out"),
        ("relabel", ("a dog", "a cow"), None, "1 boxes were left out"),
        ("relabel", ("a fox and a dog", "a cat and a dog"), 18, None),
    ],
)
def test_a_covered_box_keeps_loses_or_changes_its_class(
    mode: str, texts: tuple[str, str], category: int | None, note: str | None
) -> None:
    """The untouched box beside it keeps its own. The row's shares are the same in every case."""
    inside = np.zeros((10, 20), bool)
    inside[:, :6] = True
    boxes = boxes_json([0, 0, 5, 10], [10, 0, 5, 10], [5, 0, 15, 10])
    found = followed(boxes, inside=inside, texts=texts, on_overlap=mode, classes=CLASSES)
    assert found.covered == [1.0, 0.0, pytest.approx(1 / 15, abs=1e-6)]
    tree = json.loads(found.members["boxes.json"])
    numbers = [box["category_id"] for box in tree["annotations"]]
    assert numbers == [*([] if category is None else [category]), 18, 18]
    assert {one["id"] for one in tree["categories"]} >= set(numbers)
    assert bool(found.notes) == (note is not None)
    assert note is None or found.notes[0].startswith(note)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "the member .json cannot be read"),
        (b"{}", "annotations must list boxes"),
        (boxes_json([0, 0, 1]), "annotations must list boxes"),
        (boxes_json([0, 0, float("inf"), 1]), "annotations must list boxes"),
        (boxes_json([0, 0, 10**400, 1]), "annotations must list boxes"),
        (boxes_json([0, 0, -1, 1]), "annotations must list boxes"),
        (boxes_json([0, 0, 1, 1], categories=[1]), "categories must list objects with id"),
        (boxes_json([0, 0, 1, 1], categories=[{"id": [], "name": "a"}]), "categories must list"),
        (boxes_json([0, 0, 1, 1], categories=[{"id": 1, "name": None}]), "categories must list"),
        (boxes_json(annotations=[{"bbox": [0, 0, 1, 1], "category_id": "1"}]), "annotations must"),
        (boxes_json(annotations=[None]), "annotations must list boxes"),
        (boxes_json(annotations={}), "annotations must list boxes"),
        (
            boxes_json([0, 0, 1, 1], size=(10, 20)),
            "they are of an image of 10 x 20 pixels, and the image, as seen, has 20 x 10",
        ),
    ],
)
def test_boxes_that_cannot_be_followed_are_left_out_with_a_note(data: bytes, reason: str) -> None:
    """They would stand in other coordinates than the image."""
    found = followed(data)
    assert set(found.members) == {"cls"}
    assert found.covered is None
    assert found.notes[0].startswith(f"the labels .boxes.json were left out: {reason}")


def test_boxes_of_another_resolution_are_scaled() -> None:
    """The image was shrunk after it was annotated; its shape is the same."""
    found = followed(boxes_json([10, 20, 40, 50], size=(200, 100)))
    assert json.loads(found.members["boxes.json"])["annotations"][0]["bbox"] == [1, 2, 4, 5]


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_masks_of_classes_keep_their_values(mode: str) -> None:
    """They are cropped and padded like the image; no value is blended with another."""
    values = np.zeros((48, 64), np.uint16 if mode == "I;16" else np.uint8)
    values[10:30, 20:40] = 300 if mode == "I;16" else 7
    image = Image.fromarray(values) if mode != "P" else Image.fromarray(values).convert("P")
    sink = io.BytesIO()
    image.save(sink, "PNG")
    found = follow(
        {"seg.png": sink.getvalue()},
        texts=Texts("", ""),
        place=Place(place((64, 48), (SIZE, SIZE), "pad"), "model"),
        inside=np.zeros((SIZE, SIZE), bool),
        read=READ,
        labels=Labels.model_validate({}),
    )
    written = np.asarray(Image.open(io.BytesIO(found.members["seg.png"])))
    assert written.shape == (SIZE, SIZE)
    assert set(np.unique(written)) == set(np.unique(np.asarray(image)))
    rows, columns = np.flatnonzero(written.any(1)), np.flatnonzero(written.any(0))
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (9, 19, 10, 20)


def test_a_mask_of_classes_of_another_size_is_left_out() -> None:
    """With a note, and the rest of the files stays."""
    found = follow(
        {"seg.png": encode(np.zeros((4, 4), np.uint8)), "cls": b"1"},
        texts=Texts("", ""),
        place=Place(place((20, 10), (20, 10), "crop"), "model"),
        inside=np.zeros((10, 20), bool),
        read=READ,
        labels=Labels.model_validate({}),
    )
    assert set(found.members) == {"cls"}
    assert "the mask has 4 x 4 pixels, and the image, as seen, 20 x 10" in found.notes[0]


def test_relabel_needs_classes() -> None:
    """The message names both keys."""
    tree = {
        "input": {"shards": "in"},
        "output": {"path": "out"},
        "labels": {"on_overlap": "relabel"},
    }
    with pytest.raises(ConfigError, match=r"on_overlap=relabel needs labels\.classes"):
        parse_config(tree)
