"""Records: a part comes back from its bytes as it was."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.records.part import Edit, Part, Sample, Status
from pipeline.records.rows import COLUMNS, ROW_SCHEMA, STAGED_SCHEMA
from pipeline.records.seeds import noise_seed


def example_part() -> Part:
    generator = np.random.default_rng(0)
    done = Edit(0, "a blue circle", mask=np.ones((4, 4), np.float32), num_evals_mask=20)
    done.image = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    failed = Edit(1, "")
    failed.fail("read", ValueError("the edit text is empty"))
    full = Sample("a", caption="a red circle", image=done.image.copy(), edits=[done, failed])
    full.trajectory = generator.integers(0, 2**16, (3, 4, 2, 2)).astype(np.uint16)
    full.extras, full.metadata = {"cls": b"7"}, {"edits": ["x"], "ü": 1.5}
    return Part(
        "s/0", 2, 5, [full, Sample("b", edits=[Edit(-1)])], "truncated", seconds={"read": 0.5}
    )


def test_part_survives_its_bytes() -> None:
    """Everything in a part is the same after a round trip, arrays with dtype and shape."""
    part = example_part()
    back = Part.from_bytes(part.to_bytes())
    assert back.to_bytes() == part.to_bytes()
    sample = back.samples[0]
    np.testing.assert_array_equal(sample.trajectory, part.samples[0].trajectory)
    assert sample.trajectory is not None
    assert sample.trajectory.dtype == np.uint16
    assert sample.metadata == {"edits": ["x"], "ü": 1.5}
    assert sample.extras == {"cls": b"7"}
    assert sample.edits[1].status is Status.FAILED
    assert sample.edits[1].message == "the edit text is empty"
    assert back.samples[1].edits[0].pending


def test_arrays_of_a_part_read_back_are_writable() -> None:
    """A step may change what it is given."""
    back = Part.from_bytes(example_part().to_bytes())
    image = back.samples[0].image
    assert image is not None
    image[0, 0] = 0


def test_part_without_images_survives() -> None:
    """An empty shard is one part without images."""
    assert Part.from_bytes(Part("s", 0, 1).to_bytes()) == Part("s", 0, 1)


def test_part_bytes_are_two_arrow_streams() -> None:
    """Images, then edits, readable by anything that reads Arrow."""
    source = pa.BufferReader(example_part().to_bytes())
    samples, edits = (pa.ipc.open_stream(source).read_all() for _ in range(2))
    assert samples.column("key").to_pylist() == ["a", "b"]
    assert edits.column("index").to_pylist() == [0, 1, -1]


def test_staged_rows_are_published_rows_with_members() -> None:
    """The staged schema is the published one and one column more."""
    assert STAGED_SCHEMA.names == [*ROW_SCHEMA.names, "members"]
    assert len({name for name, *_ in COLUMNS}) == len(COLUMNS)


@pytest.mark.parametrize(
    "other",
    [(1, "s", "k", "mask"), (0, "t", "k", "mask"), (0, "s", "l", "mask"), (0, "s", "k", "encode")],
)
def test_seed_depends_on_every_name(other: tuple) -> None:
    """Another run seed, shard, key or purpose is another noise; the same names are the same."""
    assert noise_seed(0, "s", "k", "mask") != noise_seed(*other)
    assert noise_seed(0, "s", "k", "mask") == noise_seed(0, "s", "k", "mask") < 2**63


def test_seed_differs_by_edit_only_where_asked() -> None:
    """The edit index enters where it is given."""
    assert noise_seed(0, "s", "k", "x", 1) != noise_seed(0, "s", "k", "x", 2)
    assert noise_seed(0, "s", "k", "x", 1) != noise_seed(0, "s", "k", "x")
