"""Handover: a part comes back from its row as it was, and its arrays are not copied on the way."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.records.packing import PART_SCHEMA, join, pack, unpack
from pipeline.records.part import Edit, Part, Sample, Status
from tests.packed import from_bytes, to_bytes


def example_part() -> Part:
    generator = np.random.default_rng(0)
    done = Edit(0, "a blue circle", mask=np.ones((4, 4), np.float32), num_evals_mask=20)
    done.image = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    done.scores = {"lpips": 0.25, "clip": None}
    failed = Edit(1, "")
    failed.fail("read", ValueError("the edit text is empty"))
    full = Sample("a", caption="a red circle", image=done.image.copy(), edits=[done, failed])
    full.trajectory = generator.integers(0, 2**16, (3, 4, 2, 2)).astype(np.uint16)
    full.latent = np.array([np.nan, -0.0, np.inf, 1e-45], np.float32).reshape(1, 2, 2)
    full.encoded, full.encoded_mask = b"\x00\xff", b""
    full.extras, full.metadata = {"cls": b"7", "txt": b"a"}, {"edits": ["x"], "ü": 1.5}
    full.settings = {"seed": 2**70, "strength": float("inf")}
    return Part(
        "s/0", 2, 5, [full, Sample("b", edits=[Edit(-1)])], "truncated", seconds={"read": 0.5}
    )


def stacked_part(num_samples: int = 4) -> Part:
    """A part as the stages make it: each field's arrays are rows of one array."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (num_samples, 8, 8, 3), dtype=np.uint8)
    trajectories = generator.normal(size=(num_samples, 3, 4, 2, 2)).astype(np.float16)
    masks = generator.random((num_samples, 2, 2), np.float32)
    return Part(
        *("s", 0, 1),
        [
            Sample(str(n), image=image, trajectory=trajectory, edits=[Edit(0, "x", mask=mask)])
            for n, (image, trajectory, mask) in enumerate(
                zip(images, trajectories, masks, strict=True)
            )
        ],
    )


def content_of(table: pa.Table, name: str) -> np.ndarray:
    """(B,) uint8: the data buffer of a column, as Arrow has it."""
    value: Any = table.column(name).chunk(0)
    return np.frombuffer(value.buffers()[2], np.uint8)


def test_a_part_survives_its_row() -> None:
    """Everything in a part is the same after a round trip, arrays with dtype, shape and bits."""
    part = example_part()
    back = unpack(pack(part))
    assert to_bytes(back) == to_bytes(part)
    assert (back.shard, back.index, back.num_parts) == ("s/0", 2, 5)
    assert (back.problem, back.seconds) == ("truncated", {"read": 0.5})
    sample, original = back.samples[0], part.samples[0]
    for name in ("image", "latent", "trajectory"):
        array, expected = getattr(sample, name), getattr(original, name)
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tobytes() == expected.tobytes()
    assert sample.supplied_mask is None
    assert (sample.encoded, sample.encoded_mask) == (b"\x00\xff", b"")
    assert sample.extras == {"cls": b"7", "txt": b"a"}
    assert sample.metadata == {"edits": ["x"], "ü": 1.5}
    assert sample.settings == original.settings
    assert sample.edits[0].scores == {"lpips": 0.25, "clip": None}
    assert sample.edits[1].status is Status.FAILED
    assert sample.edits[1].message == "the edit text is empty"
    assert back.samples[1] == Sample("b", edits=[Edit(-1)])


def test_a_part_without_samples_survives() -> None:
    """An empty shard is one part without samples."""
    assert from_bytes(to_bytes(Part("s", 0, 1))) == Part("s", 0, 1)


def test_arrays_of_one_array_become_the_buffer_as_they_are() -> None:
    """What a stage has stacked is not copied: the column's buffer is that memory."""
    part = stacked_part()
    table = pack(part)
    for name, array in (
        ("sample.image", part.samples[0].image),
        ("sample.trajectory", part.samples[0].trajectory),
        ("edit.mask", part.samples[0].edits[0].mask),
    ):
        assert array is not None
        content = content_of(table, name)
        assert np.shares_memory(content, array.base)
        assert content.nbytes == array.nbytes * 4


def test_unpacked_arrays_are_views_of_the_buffer_that_cannot_be_written() -> None:
    """Ray's shared memory is read in place; a step that writes into it is refused."""
    table = pack(example_part())
    back = unpack(table)
    image, trajectory = back.samples[0].image, back.samples[0].trajectory
    assert image is not None
    assert trajectory is not None
    assert np.shares_memory(image, content_of(table, "sample.image"))
    assert np.shares_memory(trajectory, content_of(table, "sample.trajectory"))
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0


def test_a_part_that_is_passed_on_is_not_copied_again() -> None:
    """The arrays of an unpacked part are in one buffer, so the next row has that buffer."""
    apart = stacked_part()
    for sample in apart.samples:  # as prepare makes them: each image has memory of its own
        assert sample.image is not None
        sample.image = sample.image.copy()
    table = pack(apart)
    again = pack(unpack(table))
    for name in ("sample.image", "sample.trajectory", "edit.mask"):
        assert np.shares_memory(content_of(table, name), content_of(again, name))


def test_a_pickled_row_has_its_buffers_beside_it() -> None:
    """As Ray stores a block (protocol 5): no array's bytes are in the pickle itself."""
    table, buffers = pack(stacked_part()), list[pickle.PickleBuffer]()
    pickled = pickle.dumps(table, protocol=5, buffer_callback=buffers.append)
    back = unpack(pickle.loads(pickled, buffers=buffers))
    assert to_bytes(back) == to_bytes(stacked_part())
    large = [buffer.raw() for buffer in buffers]
    images = stacked_part().samples[0].image
    assert images is not None
    assert any(view.nbytes == 4 * images.nbytes for view in large)


NOT_ONE_BUFFER: dict[str, Callable[[np.ndarray], list[np.ndarray]]] = {
    "gap": lambda whole: [whole[0], whole[2]],
    "order": lambda whole: [whole[1], whole[0]],
    "twice": lambda whole: [whole[0], whole[0]],
    "strided": lambda whole: [whole[0, :, ::2], whole[1, :, ::2]],
    "transposed": lambda whole: [whole[0].T, whole[1].T],
    "apart": lambda whole: [whole[0].copy(), whole[1].copy()],
    "dtypes": lambda whole: [whole.reshape(-1).view(np.uint8)[:3], whole.reshape(-1)[1:5]],
    "of a strided array": lambda whole: list(whole[:, ::2]),
}


@pytest.mark.parametrize("arrays_of", NOT_ONE_BUFFER.values(), ids=NOT_ONE_BUFFER)
def test_other_arrays_are_copied_in_order(
    arrays_of: Callable[[np.ndarray], list[np.ndarray]],
) -> None:
    """Values are equal, and each begins where its dtype may begin."""
    whole = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    arrays = arrays_of(whole)
    joined, starts = join(arrays)
    assert not np.shares_memory(joined, whole)
    for array, start in zip(arrays, starts, strict=True):
        back = np.ndarray(array.shape, array.dtype, joined, start)
        assert start % array.itemsize == 0
        np.testing.assert_array_equal(back, array)


def test_neighbors_by_chance_are_not_one_array() -> None:
    """Two arrays may lie side by side in memory that neither of them owns alone."""
    memory = bytearray(16)
    first, second = np.frombuffer(memory, np.uint8, 8), np.frombuffer(memory, np.uint8, 8, 8)
    joined, _ = join([first, second])
    assert not np.shares_memory(joined, first)


def test_rows_of_every_part_have_one_schema() -> None:
    """Ray compares the schemas of blocks, and keeps each one that differs."""
    for part in (example_part(), stacked_part(), Part("s", 0, 1)):
        assert pack(part).schema.equals(PART_SCHEMA)
