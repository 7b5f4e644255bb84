"""From encoded images to the model's: each decoded once, each failure a row with a reason."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.buckets import Sizes
from pipeline.images import files as image_files
from pipeline.images.errors import ImageError
from pipeline.images.files import (
    ALPHA_NOTE,
    FRAMES_NOTE,
    decode_image,
    decode_mask,
)
from pipeline.records.part import Edit, Part, Sample, Status
from pipeline.republish.retry_failed import is_retried
from pipeline.steps.prepare import MASK_CROPPED_NOTE, Preparation, prepare
from tests.packed import to_bytes
from tests.samples import declared_png, encode, pixels

LIMITS = Preparation(sizes=Sizes(32), resize="crop", resolution="model", max_pixels=10**6)


def limits(**changes: Any) -> Preparation:
    """``LIMITS`` with changes; suffixes may be a list."""
    if "suffixes" in changes:
        changes["suffixes"] = tuple(changes["suffixes"])
    return replace(LIMITS, **changes)


def image_of(sample: Sample) -> np.ndarray:
    assert sample.image is not None
    return sample.image


def mask_of(sample: Sample) -> np.ndarray:
    assert sample.supplied_mask is not None
    return sample.supplied_mask


def prepare_one(encoded: bytes, mask: bytes | None = None, **changes: Any) -> Sample:
    """One image through the step, at 32 x 32 unless ``changes`` say otherwise."""
    sample = Sample(
        "k", encoded=encoded, encoded_mask=mask, extras={"cls": b"1"}, edits=[Edit(0, "x")]
    )
    return prepare(Part("s", 0, 1, [sample]), limits(**changes)).samples[0]


def reason(sample: Sample) -> tuple[str | None, str | None]:
    edit = sample.edits[0]
    assert (edit.status, edit.stage) == (Status.FAILED, "prepare")
    assert sample.image is None
    assert sample.encoded is None
    return edit.error, edit.message


def save(sample: Image.Image, form: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    sample.save(sink, form, **options)
    return sink.getvalue()


def test_an_image_of_the_models_size_is_unchanged() -> None:
    """No pixel moves where nothing is to be resized; the encoded bytes are dropped."""
    image = pixels(1, 32, 32)
    sample = prepare_one(encode(image))
    assert np.array_equal(image_of(sample), image)
    assert (sample.source_width, sample.source_height, sample.encoded) == (32, 32, None)
    assert sample.extras == {"cls": b"1"}


def test_the_encoded_image_stays_where_finish_needs_it() -> None:
    """resolution: source decodes again, at the image's own size."""
    encoded = encode(pixels())
    assert prepare_one(encoded, resolution="source").encoded == encoded


def test_crop_takes_the_centre() -> None:
    """The largest centred square is scaled, computed here by slicing."""
    image = pixels(2, 48, 64)
    expected = Image.fromarray(image[:, 8:56]).resize((32, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(image_of(prepare_one(encode(image))), np.asarray(expected))


def test_pad_keeps_the_shape_and_repeats_the_edge() -> None:
    """64 x 32 becomes 32 x 16 in the middle; the rows around are its first and last."""
    image = pixels(3, 32, 64)
    made = prepare_one(encode(image), resize="pad").image
    assert made is not None
    inner = np.asarray(Image.fromarray(image).resize((32, 16), Image.Resampling.LANCZOS))
    assert np.array_equal(made[8:24], inner)
    assert (made[:8] == inner[0]).all()
    assert (made[24:] == inner[-1]).all()


def test_stretch_takes_everything() -> None:
    """Both sides are scaled on their own."""
    image = pixels(4, 20, 70)
    expected = Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS)
    assert np.array_equal(
        image_of(prepare_one(encode(image), resize="stretch")), np.asarray(expected)
    )


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 3)])
def test_extreme_shapes_still_fit(resize: str, shape: tuple[int, int]) -> None:
    """A pixel, a line and a column are images too."""
    sample = prepare_one(encode(pixels(5, *shape)), resize=resize)
    assert sample.image is not None
    assert sample.image.shape == (32, 32, 3)
    placement = limits(resize=resize).place(shape[::-1])
    for left, top, right, bottom in (placement.shown, placement.target):
        assert 0 <= left < right
        assert 0 <= top < bottom


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


@pytest.mark.parametrize("what", ["picture", "mask"])
def test_memory_that_does_not_suffice_is_no_damage(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row says so by a name that --retry-failed computes again; the next image goes on."""
    name = {"picture": "_as_rgb", "mask": "_as_gray"}[what]
    whole, calls = getattr(image_files, name), []

    def short(*args: Any) -> Image.Image:
        calls.append(args)
        if len(calls) == 1:
            raise MemoryError
        return whole(*args)

    monkeypatch.setattr(image_files, name, short)
    mask = save(Image.new("L", (32, 32), 255), "PNG")
    samples = [
        Sample(str(n), encoded=encode(pixels(n, 32, 32)), encoded_mask=mask, edits=[Edit(0, "x")])
        for n in range(2)
    ]
    part = Part("s", 0, 1, samples)
    prepare(part, limits())
    first, second = part.edits
    assert (first.stage, first.error) == ("prepare", "MemoryError")
    assert is_retried(first.stage, first.error)
    assert second.pending


def animated(form: str) -> bytes:
    frames = [Image.fromarray(pixels(seed, 32, 32)) for seed in (1, 2)]
    return save(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)


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


def test_a_supplied_mask_goes_where_the_image_goes() -> None:
    """The same crop, no colors between 0 and 255 where cells fall on pixels, 0 in the padding."""
    mask = np.zeros((64, 128), np.uint8)
    mask[:32, 32:64] = 255
    encoded = encode(pixels(1, 64, 128))
    cropped = prepare_one(encoded, save(Image.fromarray(mask), "PNG")).supplied_mask
    assert cropped is not None
    expected = np.zeros((32, 32), np.uint8)
    expected[:16, :16] = 255
    assert np.array_equal(cropped, expected)
    padded = prepare_one(encoded, save(Image.fromarray(mask), "PNG"), resize="pad").supplied_mask
    assert padded is not None
    assert padded.sum() == 255 * 8 * 8
    assert (padded[8:16, 8:16] == 255).all()
    everywhere = np.full((64, 128), 255, np.uint8)
    whole = prepare_one(encoded, save(Image.fromarray(everywhere), "PNG"), resize="pad")
    assert not mask_of(whole)[:8].any()


@pytest.mark.parametrize(
    ("resize", "column", "is_noted"),
    [("crop", 10, True), ("crop", 40, False), ("pad", 10, False), ("stretch", 10, False)],
)
def test_a_supplied_mask_outside_of_the_crop_is_noted(
    resize: str, column: int, is_noted: bool
) -> None:
    """That part is not edited, though it was asked for."""
    mask = np.zeros((64, 128), np.uint8)
    mask[:, 60:70] = 255  # in the crop, which has the columns 32 to 95
    mask[20, column] = 200
    mask[:, 0] = 3  # as JPEG leaves it
    sample = prepare_one(encode(pixels(1, 64, 128)), encode(mask), resize=resize)
    assert sample.edits[0].notes == ([MASK_CROPPED_NOTE] if is_noted else [])


def test_a_mask_of_another_shape_fails_its_image() -> None:
    """Another resolution is fine, another shape is a row that says both sizes."""
    encoded = encode(pixels(1, 64, 128))
    small = save(Image.new("L", (64, 32), 255), "PNG")
    assert (mask_of(prepare_one(encoded, small)) == 255).all()
    kind, message = reason(prepare_one(encoded, save(Image.new("L", (64, 64)), "PNG")))
    assert kind == "BadMask"
    assert "64 x 64" in str(message)
    assert "128 x 64" in str(message)
    assert reason(prepare_one(encoded, b"no mask"))[0] == "BadMask"


def test_one_bad_image_leaves_its_neighbours_alone() -> None:
    """The step ends what is bad and goes on; finished edits keep their reason."""
    good = Sample("a", encoded=encode(pixels(1)), edits=[Edit(0, "x")])
    bad = Sample("b", encoded=b"?", edits=[Edit(0, "x"), Edit(1, "y")])
    bad.edits[1].fail("read", "EmptyText", "the edit text is empty")
    last = Sample("c", encoded=encode(pixels(2)), edits=[Edit(0, "x")])
    part = prepare(Part("s", 0, 1, [good, bad, last]), limits())
    assert [sample.image is not None for sample in part.samples] == [True, False, True]
    assert [edit.stage for edit in bad.edits] == ["prepare", "read"]


def test_mutated_images_never_raise() -> None:
    """400 files with flipped, lost and added bytes: pixels or a reason, nothing else."""
    generator = np.random.default_rng(0)
    seeds = [encode(pixels(1), form) for form in ("png", "jpg", "webp")]
    seeds += [animated("WEBP"), animated("GIF"), save(Image.new("LA", (9, 9), 3), "PNG")]
    outcomes = set()
    for number in range(400):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(int(generator.integers(1, 5))):
            place = int(generator.integers(len(data)))
            data[place : place + int(generator.integers(0, 3))] = generator.bytes(
                int(generator.integers(1, 4))
            )
        if number % 7 == 0:
            del data[int(generator.integers(1, len(data))) :]
        sample = prepare_one(bytes(data), suffixes=["png", "jpg", "webp", "gif"])
        outcomes.add(sample.edits[0].error)
        assert (sample.image is None) == (sample.edits[0].status == Status.FAILED)
    assert {None, "DamagedImage"} <= outcomes


def test_several_images_at_once_are_those_of_one_at_a_time() -> None:
    """Good ones, bad ones, in their order; to the last byte."""
    files = [encode(pixels(n, 40, 64)) for n in range(6)]
    files[2:4] = [b"no image", encode(pixels(9, 90, 90), "jpg")]
    made = []
    for threads in (1, 4):
        samples = [
            Sample(str(n), encoded=data, edits=[Edit(0, "x")]) for n, data in enumerate(files)
        ]
        part = Part("s", 0, 1, samples)
        made.append(to_bytes(prepare(part, limits(), threads=threads)))
        assert [sample.image is None for sample in part.samples] == [n == 2 for n in range(6)]
    assert made[0] == made[1]


def test_pillows_limit_is_lifted_until_the_last_thread_has_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is done must not put it back under the feet of another, and it is put back."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    begun, go_on = threading.Event(), threading.Event()
    slow, fast = encode(pixels(1, 32, 32)), encode(pixels(2, 32, 32))
    loaded = image_files._loaded

    def load(data: bytes, *rest: Any) -> Any:
        if data is slow:
            begun.set()
            assert go_on.wait(30)
        return loaded(data, *rest)

    monkeypatch.setattr(image_files, "_loaded", load)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(prepare_one, slow)
        assert begun.wait(30)
        assert prepare_one(fast).image is not None
        go_on.set()
        assert first.result().image is not None
    assert Image.MAX_IMAGE_PIXELS == 10


def test_pillows_warnings_are_not_shown(recwarn: pytest.WarningsRecorder) -> None:
    """What is odd about an image that decodes is nobody's news, in no thread."""
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05"  # five entries are declared, none follows
    sink = io.BytesIO()
    Image.fromarray(pixels(3, 32, 32)).save(sink, "JPEG", exif=exif)
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(io.BytesIO(sink.getvalue())).getexif().get(0x0112)
    assert prepare_one(sink.getvalue()).image is not None
    assert not recwarn.list
