"""What an image may be: orientations, depths, modes, transparency, animations, and what is none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.images.errors import ImageError
from pipeline.images.files import (
    ALPHA_NOTE,
    FRAMES_NOTE,
    decode_image,
    decode_mask,
)
from tests.samples import declared_png, encode, pixels
from tests.steps.preparing import animated, image_of, prepare_one, reason, save


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image(orientation: int) -> None:
    """However it was stored, it is seen upright: compared with Pillow's own turning."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(pixels(6, 24, 32), "png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    sample = prepare_one(encoded, resize="stretch")
    expected = upright.resize((32, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(image_of(sample), np.asarray(expected))
    assert (sample.source_width, sample.source_height) == upright.size


def test_damaged_exif_turns_nothing() -> None:
    """An image is not lost for its EXIF."""
    encoded = encode(pixels(6, 32, 32), "jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert prepare_one(encoded).image is not None


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    """65535 is white and 257 * n is n."""
    ramp = (np.arange(32 * 32, dtype=np.uint32).reshape(32, 32) % 256 * 257).astype(np.uint16)
    sample = prepare_one(save(Image.fromarray(ramp), "PNG"))
    assert np.array_equal(image_of(sample), np.repeat((ramp // 257)[..., None], 3, 2))


def test_a_transparent_value_of_sixteen_bits_is_put_on_white_alone() -> None:
    """Grey with tRNS: what is not of that value keeps its grey, and in a mask that value is 0."""
    ramp = (np.arange(32 * 32, dtype=np.uint32).reshape(32, 32) % 256 * 257).astype(np.uint16)
    encoded = save(Image.fromarray(ramp), "PNG", transparency=100 * 257)
    sample = prepare_one(encoded)
    grey = (ramp // 257).astype(np.uint8)
    assert np.array_equal(image_of(sample)[..., 0], np.where(grey == 100, 255, grey))
    assert sample.edits[0].notes == [ALPHA_NOTE]
    mask = np.asarray(decode_mask(encoded, max_pixels=10**6))
    assert np.array_equal(mask, np.where(grey == 100, 0, grey))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    """Black and white, grey, palette and print colors."""
    form = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    image = Image.fromarray(pixels(7, 32, 32)).convert(mode)
    sample = prepare_one(save(image, form))
    assert sample.image is not None
    wanted = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(sample.image.astype(int) - wanted).mean() < 12


def test_transparency_is_put_on_white_and_noted() -> None:
    """Alpha 0 is white, 255 the color, half of it the mean; opaque alpha is no news."""
    image = np.zeros((32, 32, 4), np.uint8)
    image[:, :16] = (200, 0, 0, 255)
    image[:8, :16, 3] = 128
    sample = prepare_one(save(Image.fromarray(image), "PNG"))
    assert sample.image is not None
    assert sample.image[20, 20].tolist() == [255, 255, 255]
    assert sample.image[20, 4].tolist() == [200, 0, 0]
    assert np.abs(sample.image[2, 4].astype(int) - [227, 127, 127]).max() <= 1
    assert sample.edits[0].notes == [ALPHA_NOTE]
    image[..., 3] = 255
    assert prepare_one(save(Image.fromarray(image), "PNG")).edits[0].notes == []


@pytest.mark.parametrize("suffix", ["image.png", "IMG.PNG", "img"])
def test_a_suffix_may_have_dots_or_name_no_format(suffix: str) -> None:
    """input.image: [image.png] is a member's name as good as another; a GIF is no PNG, though."""
    decoded, _ = decode_image(encode(pixels(0, 8, 8)), max_pixels=64, suffixes=[suffix])
    assert np.array_equal(np.asarray(decoded), pixels(0, 8, 8))
    if suffix != "img":
        with pytest.raises(ImageError, match="not an image in PNG"):
            decode_image(save(decoded, "GIF"), max_pixels=64, suffixes=[suffix])


def test_of_an_animation_the_first_frame_is_taken() -> None:
    """And the row says so; bytes count, not the member's name."""
    sample = prepare_one(animated("WEBP"))
    assert np.array_equal(image_of(sample), pixels(1, 32, 32))
    assert sample.edits[0].notes == [FRAMES_NOTE]
    sample = prepare_one(animated("GIF"), suffixes=["png", "gif"])
    still = prepare_one(save(Image.fromarray(pixels(1, 32, 32)), "GIF"), suffixes=["gif"])
    assert np.array_equal(image_of(sample), image_of(still))
    assert (sample.edits[0].notes, still.edits[0].notes) == ([FRAMES_NOTE], [])


def test_formats_that_are_not_configured_are_not_tried() -> None:
    """An animated GIF named .png is no image of the configured formats."""
    kind, message = reason(prepare_one(animated("GIF")))
    assert (kind, message) == ("NotAnImage", "the bytes are not an image in JPEG, PNG, WEBP")


@pytest.mark.parametrize(
    ("encoded", "kind", "words"),
    [
        (b"", "EmptyFile", "0 bytes"),
        (b"404: not found", "NotAnImage", "JPEG, PNG, WEBP"),
        (encode(pixels(1, 300, 300), "jpg")[:900], "DamagedImage", "truncated"),
        (encode(pixels(1, 64, 64), "png")[:-700], "DamagedImage", "image file is truncated"),
        (declared_png(20_000, 20_000), "TooLarge", "20000 x 20000 pixels, above input.max_pixels"),
        (declared_png(1001, 1000), "TooLarge", "above input.max_pixels=1000000"),
    ],
)
def test_what_does_not_decode_is_a_row(encoded: bytes, kind: str, words: str) -> None:
    """The reason is one sentence, and the same in every run."""
    sample = prepare_one(encoded)
    found, message = reason(sample)
    assert found == kind
    assert words in str(message)
    assert "0x" not in str(message)
    assert "\n" not in str(message)
    assert prepare_one(encoded).edits[0].message == message
    assert sample.extras == {}
