"""AVIF and JPEG 2000 where Pillow has them, and what a row says where it has not."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from pipeline.images.errors import ImageError
from pipeline.images.files import decode_image, decode_mask
from tests.samples import pixels

CODECS = {"avif": ("AVIF", "avif"), "jp2": ("JPEG2000", "jpg_2000"), "webp": ("WEBP", "webp")}


def encoded(form: str) -> bytes:
    sink = io.BytesIO()
    options: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    Image.fromarray(pixels(1)).save(sink, form, **options.get(form, {}))
    return sink.getvalue()


@pytest.mark.parametrize("suffix", CODECS)
def test_a_format_is_decoded_if_its_suffix_is_named(suffix: str) -> None:
    """Named in input.image; a mask may have any format."""
    form, feature = CODECS[suffix]
    if not features.check(feature):
        pytest.skip(f"this Pillow has no {form}")
    data = encoded(form)
    image, notes = decode_image(data, max_pixels=10**6, suffixes=[suffix])
    assert np.abs(np.asarray(image, np.int16) - pixels(1)).mean() < 3
    assert notes == []
    assert decode_mask(data, max_pixels=10**6).size == image.size
    with pytest.raises(ImageError, match="not an image in PNG") as refused:
        decode_image(data, max_pixels=10**6, suffixes=["png"])
    assert refused.value.kind == "NotAnImage"
    with pytest.raises(ImageError, match="64 x 48 pixels, above"):
        decode_image(data, max_pixels=64 * 48 - 1, suffixes=[suffix])


@pytest.mark.parametrize("suffix", CODECS)
def test_a_missing_codec_is_named(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not "damaged" and not "no image": it is this installation that lacks something."""
    form, feature = CODECS[suffix]
    if not features.check(feature):
        pytest.skip(f"this Pillow has no {form}, so it cannot write one")
    data, check = encoded(form), features.check
    monkeypatch.setattr(features, "check", lambda name: name != feature and check(name))
    with pytest.raises(ImageError, match=f"no {form} codec") as refused:
        decode_image(data, max_pixels=10**6, suffixes=[suffix])
    assert refused.value.kind == "UnsupportedImage"


def test_the_pictures_behind_a_phones_photo_are_no_animation() -> None:
    """A JPEG with a gain map or a preview (MPO) is a still image, and there is nothing to note."""
    sink = io.BytesIO()
    photo, map_ = (Image.fromarray(pixels(n)) for n in range(2))
    photo.save(sink, "MPO", save_all=True, append_images=[map_], quality=95)
    assert Image.open(io.BytesIO(sink.getvalue())).format == "MPO"
    image, notes = decode_image(sink.getvalue(), max_pixels=10**6, suffixes=["jpg"])
    assert np.abs(np.asarray(image, np.int16) - pixels(0)).mean() < 3
    assert notes == []


def test_a_damaged_file_of_the_new_formats_is_a_reason() -> None:
    """Cut anywhere, with bytes changed: pixels or a reason, nothing else."""
    generator = np.random.default_rng(0)
    for form, feature in CODECS.values():
        if not features.check(feature):
            continue
        for _ in range(40):
            data = bytearray(encoded(form))
            data[int(generator.integers(len(data)))] = int(generator.integers(256))
            del data[int(generator.integers(1, len(data))) :]
            with suppress(ImageError):
                decode_image(bytes(data), max_pixels=10**6, suffixes=["img"])
