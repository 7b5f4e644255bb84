"""Colors of embedded profiles become sRGB, and a profile that is sRGB changes nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms

from pipeline.images.color import BROKEN_NOTE, MAX_PROFILE_BYTES
from pipeline.images.files import ALPHA_NOTE, decode_image, decode_mask
from pipeline.storage.archive import read_members
from pipeline.storage.store import Store
from tests.committing import make_config, run
from tests.icc import DISPLAY_P3, SRGB, cmyk_profile, gray_profile, rgb_profile
from tests.samples import encode, pixels, raw_sample, write_shard

P3 = rgb_profile("Display P3", DISPLAY_P3)
ADOBE = rgb_profile(
    "Adobe RGB (1998)",
    ((0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457)),
    lambda value: value**2.2,
)
DOT_GAIN = gray_profile("Dot Gain 20%", lambda value: value**1.75)
NOTE = "the colors were converted from the embedded profile {} to sRGB"


def decoded(data: bytes) -> tuple[np.ndarray, list[str]]:
    image, notes = decode_image(data, max_pixels=10**6, suffixes=["img"])
    assert image.mode == "RGB"
    return np.asarray(image), notes


def save(image: Image.Image, form: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def by_littlecms(image: Image.Image, profile: bytes) -> np.ndarray:
    """What LittleCMS gives for a whole image, in mode RGB."""
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(
        image, opened, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert converted is not None
    return np.asarray(converted)


@pytest.mark.parametrize(
    ("p3", "srgb"),
    [
        # sRGB's red, green, blue and yellow in Display P3 (CSS Color 4's conversion, rounded)
        ((234, 51, 35), (255, 0, 0)),
        ((117, 251, 76), (0, 255, 0)),
        ((0, 0, 245), (0, 0, 255)),
        ((255, 255, 84), (255, 255, 0)),
        ((128, 128, 128), (128, 128, 128)),
        ((255, 0, 0), (255, 0, 0)),  # outside of sRGB
    ],
)
def test_display_p3_becomes_srgb(p3: tuple[int, ...], srgb: tuple[int, ...]) -> None:
    """Known colors, to rounding; the start of the curve makes a level near 0 into several."""
    found, notes = decoded(save(Image.new("RGB", (4, 4), p3), "PNG", icc_profile=P3))
    assert np.abs(found[0, 0].astype(int) - srgb).max() <= 3
    assert np.abs(found[0, 0].astype(int) - srgb)[np.array(srgb) > 0].max(initial=0) <= 1
    assert notes == [NOTE.format("Display P3")]


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_profiles_are_read_in_every_format_that_holds_one(form: str) -> None:
    """The pixels are those that LittleCMS gives for the file's own pixels."""
    image = Image.fromarray(pixels(3))
    data = save(image, form, icc_profile=P3, **({"lossless": True} if form == "WEBP" else {}))
    found, notes = decoded(data)
    stored = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(found, by_littlecms(stored, P3))
    assert not np.array_equal(found, np.asarray(stored))
    assert notes == [NOTE.format("Display P3")]


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        rgb_profile("sRGB IEC61966-2.1", SRGB),
    ],
    ids=["LittleCMS's", "with a table"],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_a_profile_that_is_srgb_changes_no_byte(profile: bytes, mode: str) -> None:
    """And is not noted: it is what most files have."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    image = image.convert(mode)
    with_profile, notes = decoded(save(image, "PNG", icc_profile=profile))
    assert np.array_equal(with_profile, decoded(save(image, "PNG"))[0])
    assert notes == []


def test_cmyk_is_converted_by_its_profile() -> None:
    """Without one, by Pillow's formula, as before."""
    values = np.random.default_rng(1).integers(0, 256, (24, 24, 4), np.uint8)
    image, profile = Image.fromarray(values, "CMYK"), cmyk_profile("Coated")
    found, notes = decoded(save(image, "TIFF", icc_profile=profile))
    assert np.array_equal(found, by_littlecms(image, profile))
    assert notes == [NOTE.format("Coated")]
    data = save(Image.fromarray(pixels(6)).convert("CMYK"), "JPEG", icc_profile=profile)
    found, notes = decoded(data)  # a JPEG's inks are stored inverted
    assert np.array_equal(found, by_littlecms(Image.open(io.BytesIO(data)), profile))
    assert notes == [NOTE.format("Coated")]
    plain, notes = decoded(save(image, "TIFF"))
    assert np.array_equal(plain, np.asarray(image.convert("RGB")))
    assert notes == []
    paper, _ = decoded(save(Image.new("CMYK", (4, 4)), "TIFF", icc_profile=profile))
    assert (paper == 255).all()


def test_grays_are_converted_by_profiles_of_gray_and_of_colors() -> None:
    """Of 8 and 16 bits, with alpha too; gray files with an RGB profile are common."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    gray = Image.fromarray(ramp)
    wanted = by_littlecms(gray, DOT_GAIN)
    assert not np.array_equal(wanted[..., 0], ramp)
    deep = Image.fromarray(ramp.astype(np.uint16) * 257)
    for image in (gray, deep):
        found, notes = decoded(save(image, "PNG", icc_profile=DOT_GAIN))
        assert np.array_equal(found, wanted)
        assert notes == [NOTE.format("Dot Gain 20%")]
    half = Image.merge("LA", (gray, Image.fromarray(np.where(ramp < 128, 0, 255).astype(np.uint8))))
    found, notes = decoded(save(half, "PNG", icc_profile=DOT_GAIN))
    assert np.array_equal(found, np.where(ramp[..., None] < 128, 255, wanted))
    assert notes == [NOTE.format("Dot Gain 20%"), ALPHA_NOTE]
    found, notes = decoded(save(gray, "PNG", icc_profile=ADOBE))
    assert np.array_equal(found, by_littlecms(gray.convert("RGB"), ADOBE))
    assert notes == [NOTE.format("Adobe RGB (1998)")]


@pytest.mark.parametrize(
    ("profile", "mode"),
    [
        (b"no profile", "RGB"),
        (P3[:200], "RGB"),
        (P3[:400] + bytes(len(P3) - 400), "RGB"),
        (P3 + bytes(MAX_PROFILE_BYTES), "RGB"),
        (DOT_GAIN, "RGB"),
        (cmyk_profile("Coated"), "L"),
        (P3, "CMYK"),
    ],
    ids=["text", "short", "zeros", "long", "gray's", "a printer's", "RGB's"],
)
def test_a_profile_that_cannot_be_used_is_noted(profile: bytes, mode: str) -> None:
    """The image is what it would be without the profile."""
    image = Image.fromarray(pixels(4)).convert(mode)
    found, notes = decoded(save(image, "TIFF", icc_profile=profile))
    assert np.array_equal(found, decoded(save(image, "TIFF"))[0])
    assert notes == [BROKEN_NOTE]


def test_a_profile_of_which_a_piece_is_lost_is_noted() -> None:
    """A JPEG stores a long one in several segments; Pillow reads none of them then."""
    data = save(Image.fromarray(pixels(4)), "JPEG", icc_profile=P3)
    one_of_two = data.replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2")
    assert one_of_two != data
    assert decoded(one_of_two)[1] == [BROKEN_NOTE]
    assert decoded(data)[1] == [NOTE.format("Display P3")]


def test_a_profiles_name_is_one_short_line_in_the_note() -> None:
    """It is text of whoever made the file."""
    name = "evil\n\x1b[31m" + "x" * 5000
    _, notes = decoded(encode(pixels(1), icc_profile=rgb_profile(name, DISPLAY_P3)))
    shown = "evil [31m" + "x" * 51
    assert notes == [NOTE.format(shown)]
    _, notes = decoded(encode(pixels(1), icc_profile=rgb_profile("\n", DISPLAY_P3)))
    assert notes == [NOTE.format("without a name")]


def test_a_mask_has_no_colors_to_convert() -> None:
    """Its values are weights."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    mask = decode_mask(save(ramp, "PNG", icc_profile=DOT_GAIN), max_pixels=256)
    assert np.array_equal(np.asarray(mask), np.asarray(ramp))


def test_cielab_is_converted() -> None:
    """TIFF's CIELAB describes its colors itself: a profile beside it is not applied."""
    image = Image.fromarray(pixels(2))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    stored = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    assert stored is not None
    for options in ({}, {"icc_profile": P3}):
        found, notes = decoded(save(stored, "TIFF", **options))
        assert np.abs(found.astype(int) - np.asarray(image)).mean() < 2
        assert notes == []


def test_an_edit_at_the_sources_size_is_in_srgb_too(tmp_path: Path) -> None:
    """Finish decodes the file again: the background is that of the converted image."""
    image = pixels(5, 64, 64)
    data = encode(image, icc_profile=P3)
    write_shard(tmp_path / "in/0.tar", [raw_sample("a", png=data)])
    config = make_config(f"{tmp_path}/in/*.tar", output={"resolution": "source"})
    run(config, Store(f"{tmp_path}/out"))
    members = dict(read_members((tmp_path / "out/0.tar").read_bytes())[0])
    after, outside = (np.asarray(Image.open(io.BytesIO(members[f"a_0.{name}"])))
                      for name in ("png", "mask.png"))  # fmt: skip
    wanted = by_littlecms(Image.fromarray(image), P3)
    assert np.array_equal(after[outside == 0], wanted[outside == 0])
    assert "icc_profile" not in Image.open(io.BytesIO(members["a_0.png"])).info
    row = pq.read_table(tmp_path / "out/0.parquet").to_pylist()[0]
    assert row["notes"] == [NOTE.format("Display P3")]


def test_mutated_profiles_never_raise() -> None:
    """400 profiles with changed, lost and added bytes: converted, taken as sRGB, or noted."""
    generator = np.random.default_rng(0)
    profiles = [(P3, "RGB"), (DOT_GAIN, "L"), (cmyk_profile("Coated"), "CMYK")]
    outcomes = set()
    for number in range(400):
        profile, mode = profiles[number % 3]
        data = bytearray(profile)
        for _ in range(int(generator.integers(1, 9))):
            # Most bytes are of curves: half of the changes fall on header and tags.
            place = int(generator.integers(512 if generator.random() < 0.5 else len(data)))
            size = int(generator.integers(0, 5))
            data[place : place + size] = generator.bytes(int(generator.integers(0, 5)))
        image = Image.fromarray(pixels(number, 8, 8)).convert(mode)
        found, notes = decoded(save(image, "TIFF", icc_profile=bytes(data)))
        assert found.shape == (8, 8, 3)
        outcomes.add(notes[0].split()[1] if notes else "none")
    assert outcomes >= {"colors", "embedded"}
