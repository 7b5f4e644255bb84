"""Polygons and run lengths of COCO become a mask of classes, as pycocotools draws them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference

from pipeline.pack.masks import class_mask
from tests.pack.packing import draw, pack, samples_of

WIDTH, HEIGHT = 64, 48
SQUARE = [[10, 8, 30, 8, 30, 28, 10, 28]]


def boxes(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"width": WIDTH, "height": HEIGHT, "annotations": list(annotations)} | changes


def values(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_are_those_of_pycocotools(seed: int, compressed: bool) -> None:
    """Both spellings, bit for bit."""
    generator = np.random.default_rng(seed)
    drawn = np.kron(generator.random((6, 8)) < 0.5, np.ones((8, 8), bool)).astype(np.uint8)
    drawn[generator.random(drawn.shape) < 0.02] ^= 1
    shape = reference.encode(np.asfortranarray(drawn))
    counts: Any = shape["counts"].decode()
    if not compressed:
        flat = drawn.T.reshape(-1)
        ends = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *ends, flat.size]).tolist()
        counts = [0, *counts] if flat[0] else counts
    annotation = {"category_id": 7, "segmentation": {"counts": counts, "size": [HEIGHT, WIDTH]}}
    assert np.array_equal(values(class_mask(boxes(annotation))), drawn * 7)


def test_polygons_are_those_of_pycocotools_up_to_their_rim() -> None:
    """A pixel of the rim belongs to the one or the other."""
    found = values(class_mask(boxes({"category_id": 300, "segmentation": SQUARE})))
    (runs,) = reference.frPyObjects(SQUARE, HEIGHT, WIDTH)
    differs = (found == 300) != (reference.decode(runs) == 1)
    assert found.dtype == np.uint16
    differs[8], differs[27:29] = False, False  # the rim of the square
    differs[:, 10], differs[:, 29:31] = False, False
    assert not differs.any()


def test_small_shapes_lie_on_large_ones() -> None:
    """Whatever their order in the file."""
    small = {"category_id": 2, "area": 4, "segmentation": [[14, 12, 18, 12, 18, 16, 14, 16]]}
    large = {"category_id": 1, "area": 400, "segmentation": SQUARE}
    first, second = (values(class_mask(boxes(*pair))) for pair in ((small, large), (large, small)))
    assert np.array_equal(first, second)
    assert (first[14, 16], first[26, 26], first[2, 2]) == (2, 1, 0)


@pytest.mark.parametrize(
    "tree",
    [
        boxes(),
        boxes({"category_id": 1, "bbox": [0, 0, 1, 1]}),
        boxes({"category_id": -1, "segmentation": SQUARE}),
        boxes({"category_id": 1, "segmentation": [["a", 1, 2, 3, 4, 5]]}),
        boxes({"category_id": 1, "segmentation": {"counts": [9], "size": [HEIGHT, WIDTH]}}),
        boxes({"category_id": 1, "segmentation": {"counts": "é", "size": [1, 2]}}),
        boxes({"category_id": 1, "segmentation": SQUARE}, width=None),
        boxes({"category_id": 1, "segmentation": SQUARE}, width=10**9),
    ],
)
def test_what_cannot_be_drawn_has_no_mask(tree: dict[str, Any]) -> None:
    """The boxes stay as they are."""
    assert class_mask(tree) is None


def test_pack_writes_masks_where_they_are_asked_for(tmp_path: Path) -> None:
    """Beside the boxes, of COCO's images with shapes."""
    draw(tmp_path / "images", ["1.png", "2.png"])
    images = [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2)]
    shapes: list[dict[str, Any]] = [
        {"bbox": [10, 8, 20, 20], "segmentation": SQUARE},
        {"bbox": [0, 0, 4, 4]},
    ]
    annotations = [
        {"id": n, "image_id": n + 1, "category_id": 3} | shape for n, shape in enumerate(shapes)
    ]
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cat"}]}
    (tmp_path / "instances.json").write_text(json.dumps(tree))
    folder = str(tmp_path / "images")
    pack(tmp_path / "plain", tmp_path / "instances.json", images=folder)
    pack(tmp_path / "out", tmp_path / "instances.json", images=folder, class_masks=True)
    assert "seg.png" not in samples_of(tmp_path / "plain")["1"]
    samples = samples_of(tmp_path / "out")
    assert (values(samples["1"]["seg.png"]) == 3).sum() == pytest.approx(400, rel=0.15)
    assert "seg.png" not in samples["2"]
