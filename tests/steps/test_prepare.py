"""From encoded images to the model's: each decoded once, each failure a row with a reason."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.images import files as image_files
from pipeline.records.part import Edit, Part, Sample, Status
from pipeline.republish.retry_failed import is_retried
from pipeline.steps.prepare import MASK_CROPPED_NOTE, prepare
from tests.packed import to_bytes
from tests.samples import encode, pixels
from tests.steps.preparing import animated, image_of, limits, mask_of, prepare_one, reason, save


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
