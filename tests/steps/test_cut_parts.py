"""With sizes for each shape, a shard's samples go into parts by shape."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from pipeline.config.input import Input
from pipeline.images.files import shape_of
from pipeline.steps.read import read_parts
from pipeline.storage.shards import expand_shards
from tests.samples import raw_sample, write_shard

SUFFIXES = ["jpg", "png", "webp"]


def encoded(width: int, height: int, form: str = "JPEG", orientation: int | None = None) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    sink = io.BytesIO()
    Image.new("RGB", (width, height)).save(sink, form, exif=exif)
    return sink.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_a_shape_is_that_of_the_image_as_it_is_shown(form: str) -> None:
    """Turned by a quarter, not mirrored or turned by a half."""
    shapes = [shape_of(encoded(40, 20, form, number), suffixes=SUFFIXES) for number in range(1, 9)]
    assert shapes == [2.0] * 4 + [0.5] * 4


@pytest.mark.parametrize(
    "data", [b"", b"x", encoded(8, 8)[:20], encoded(8, 8, "GIF"), encoded(8, 8, "TIFF")], ids=len
)
def test_what_is_not_read_has_no_shape(data: bytes) -> None:
    """Why it cannot be decoded is said where it is decoded."""
    assert shape_of(data, suffixes=SUFFIXES) == 0.0


def test_no_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of a PNG, whose EXIF may stand behind its pixels."""
    files = [encoded(40, 20, form, 6) for form in ("JPEG", "PNG", "WEBP")]

    def load(image: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    shapes = [shape_of(data, suffixes=SUFFIXES) for data in files]
    assert shapes == [0.5, 2.0, 0.5]


@pytest.mark.parametrize(
    ("group_shapes", "parts"),
    [
        (True, [["broken", "high0"], ["high1", "square0"], ["wide0", "wide1"]]),
        (False, [["wide0", "high0"], ["broken", "square0"], ["high1", "wide1"]]),
    ],
)
def test_like_shapes_share_a_part(
    group_shapes: bool, parts: list[list[str]], tmp_path: Path
) -> None:
    """Each sample is in one part; images of a shape stay in their order."""
    sizes = {"wide0": (40, 20), "high0": (20, 40), "broken": None, "square0": (9, 9)}
    sizes |= {"high1": (10, 20), "wide1": (20, 10)}
    samples = [
        raw_sample(key, suffix="jpg", jpg=b"no image" if size is None else encoded(*size))
        for key, size in sizes.items()
    ]
    write_shard(tmp_path / "0.tar", samples)
    (shard,) = expand_shards(f"{tmp_path}/*.tar")
    found = read_parts(shard, Input(shards=str(tmp_path)), 2, group_shapes=group_shapes)
    assert [[sample.key for sample in part.samples] for part in found] == parts


def test_the_first_edits_of_a_shard_are_taken_in_its_own_order(tmp_path: Path) -> None:
    """A limit means the same edits, whatever their shapes."""
    write_shard(
        tmp_path / "0.tar",
        [raw_sample(str(side), suffix="jpg", jpg=encoded(100 - side, 50)) for side in range(6)],
    )
    (shard,) = expand_shards(f"{tmp_path}/*.tar")
    (part,) = read_parts(shard, Input(shards=str(tmp_path)), 8, group_shapes=True, max_edits=2)
    assert sorted(sample.key for sample in part.samples) == ["0", "1"]
