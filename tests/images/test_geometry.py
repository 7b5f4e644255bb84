"""Where originals lie in the model's image: sizes, what is cut off, and boxes there and back."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pipeline.config.buckets import Resize, Size, Sizes, resize_of, step_of
from pipeline.config.model import Model
from pipeline.images.geometry import Placement, place, placement_of

# Side of the model's square, the step of its sides.
MODELS = ((512, 64), (1024, 32), (1024, 16), (768, 64), (128, 16), (520, 8))
NONE = (False, False, False, False)


def shapes(longer: int = 640) -> list[Size]:
    """64 sizes from 1:4 to 4:1, in even steps of the logarithm."""
    ratios = np.exp(np.linspace(-math.log(4), math.log(4), 64))
    return [
        (longer, max(longer // 4, round(longer / ratio)))
        if ratio >= 1
        else (max(longer // 4, round(longer * ratio)), longer)
        for ratio in ratios
    ]


@pytest.mark.parametrize(("side", "step"), MODELS)
def test_auto_cuts_or_pads_less_than_a_step(side: int, step: int) -> None:
    """64 shapes: both sides are multiples, the area is the square's, and little is lost."""
    sizes = Sizes(side, step, buckets="auto")
    found = [(source, sizes.of(source)) for source in shapes()]
    assert len(set(shapes())) == 64
    for source, size in found:
        assert size[0] % step == size[1] % step == 0
        assert 0.8 < math.prod(size) / side**2 <= 1.25
        cropped = place(source, size, "crop")
        assert cropped.target == (0, 0, *size)
        (across, down), (left, top, right, bottom) = cropped.scale, cropped.shown
        assert (source[0] - (right - left)) * across < step
        assert (source[1] - (bottom - top)) * down < step
        padded = place(source, size, "pad")
        assert padded.shown == (0, 0, *source)
        left, top, right, bottom = padded.target
        assert size[0] - (right - left) < step
        assert size[1] - (bottom - top) < step
    if step == 8:  # so fine that each has its own
        assert len({size for _, size in found}) > 55


@pytest.mark.parametrize(("side", "step"), MODELS)
def test_auto_of_a_square_is_the_square(side: int, step: int) -> None:
    """So a set of square images has the same bytes with auto and with square."""
    for length in (1, 7, 64, side, 4000):
        source = (length, length)
        assert Sizes(side, step, buckets="auto").of(source) == (side, side)
        assert resize_of("auto", "crop", source) == "crop"
    assert Sizes(side, step).of((640, 480)) == (side, side)


def test_auto_of_common_shapes() -> None:
    """By hand: 512 / sqrt(4 / 3) = 443.4, so 448 = 7 x 64, and 4 / 3 of it 597.3, so 576."""
    sizes = Sizes(512, 64, buckets="auto")
    assert sizes.of((640, 480)) == (576, 448)
    assert sizes.of((480, 640)) == (448, 576)
    assert sizes.of((640, 427)) == (640, 448)
    assert sizes.of((1920, 1080)) == (704, 384)
    assert sizes.of((400, 100)) == (1024, 256)
    assert Sizes(1024, 32, buckets="auto").of((3000, 2000)) == (1248, 832)


def test_the_step_is_what_the_network_halves() -> None:
    """Of SD 1.5, SDXL, SD 3 and the bundled model; it always divides the square's side."""
    assert step_of(512, 8, halvings=3) == 64
    assert step_of(768, 8, halvings=3) == 64
    assert step_of(1024, 8, halvings=2) == 32
    assert step_of(1024, 16, halvings=0) == 16
    assert step_of(128, 8, halvings=2) == 16  # with 32 a side has only four
    assert step_of(520, 8, halvings=3) == 8
    assert step_of(8, 8, halvings=3) == 8


@pytest.mark.parametrize("source", [(2000, 100), (100, 2000), (2000, 1), (401, 100)])
def test_auto_pads_extreme_shapes(source: Size) -> None:
    """1:20 lies in the size of 1:4, whole and in its own shape; stretch stretches."""
    size = Sizes(512, 64, buckets="auto").of(source)
    assert sorted(size) == [256, 1024]
    assert (size[0] > size[1]) == (source[0] > source[1])
    placement = placement_of(Model(buckets="auto"), source, size)
    assert placement.shown == (0, 0, *source)
    assert placement.cut == NONE
    left, top, right, bottom = placement.target
    assert max(right - left, bottom - top) == 1024
    assert resize_of("auto", "stretch", source) == "stretch"
    assert resize_of("square", "crop", source) == "crop"


def test_auto_stays_within_the_longest_side() -> None:
    """A transformer's table of positions ends somewhere; the shape is kept, the area is not."""
    sizes = Sizes(512, 16, longest=640, buckets="auto")
    assert sizes.of((640, 480)) == (592, 448)
    assert sizes.of((400, 100)) == (640, 160)
    assert sizes.of((100, 400)) == (160, 640)


def test_a_list_gives_the_nearest_shape_then_the_nearest_area() -> None:
    """Nearest by the factor between shapes, so that 3:2 is as far from 1:1 as 2:3 is."""
    listed = ((256, 256), (512, 512), (512, 768), (768, 512))
    for order in itertools.permutations(listed):
        sizes = Sizes(512, 8, buckets=order)
        assert sizes.of((640, 480)) == (768, 512)
        assert sizes.of((480, 640)) == (512, 768)
        assert sizes.of((610, 500)) == (512, 512)
        assert sizes.of((610, 510)) == (512, 512)
        assert sizes.of((301, 300)) == (256, 256)
        assert sizes.of((4000, 1)) == (768, 512)
        assert sizes.listed == list(order)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("source", [(640, 480), (31, 97), (1, 1), (5, 2000), (512, 512)])
def test_boxes_go_there_and_back(source: Size, resize: Resize) -> None:
    """to_source undoes to_model; what is shown lies in the target, whole."""
    for size in ((512, 512), (584, 440), (256, 1024)):
        placement = place(source, size, resize)
        assert placement.to_model(placement.shown) == pytest.approx(placement.target)
        for box in ((0, 0, *source), (0.25, 0.5, 0.75, 1.0), placement.shown):
            assert placement.to_source(placement.to_model(box)) == pytest.approx(box)
        left, top, right, bottom = placement.target
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_a_label_follows_its_pixels() -> None:
    """By hand: 640 x 480 cropped to 512 x 512 loses 80 columns a side, at a scale of 16 / 15."""
    placement = place((640, 480), (512, 512), "crop")
    assert placement == Placement((640, 480), (512, 512), (80, 0, 560, 480), (0, 0, 512, 512))
    assert placement.cut == (True, False, True, False)
    box = (65.0, 15.0, 110.0, 45.0)
    assert placement.to_written(box, "source") == box
    assert placement.to_written(box, "model") == pytest.approx((0.0, 16.0, 32.0, 48.0))
    assert placement.to_written((0.0, 0.0, 80.0, 480.0), "model") is None
    assert (placement.written("source"), placement.written("model")) == ((640, 480), (512, 512))
    padded = place((640, 480), (512, 512), "pad")
    assert padded.target == (0, 64, 512, 448)
    assert padded.to_written(box, "model") == pytest.approx((52.0, 76.0, 88.0, 100.0))
    assert place((640, 480), (584, 440), "crop").cut == (True, False, True, False)


def test_a_box_follows_a_painted_rectangle() -> None:
    """A white rectangle, placed as prepare places it, is where its box goes."""
    from PIL import Image

    from pipeline.steps.prepare import _placed

    source = np.zeros((300, 500), np.uint8)
    source[100:200, 150:450] = 255
    ways: tuple[Resize, ...] = ("crop", "pad")
    for size, resize in itertools.product(((512, 512), (664, 392), (256, 768)), ways):
        placement = place((500, 300), size, resize)
        image = _placed(Image.fromarray(source), placement, Image.Resampling.BOX)
        rows, columns = (np.flatnonzero((image > 127).any(axis)) for axis in (1, 0))
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        expected = placement.to_written((150, 100, 450, 200), "model")
        assert expected is not None
        assert found == pytest.approx(expected, abs=1.0)
