"""Measures the handover of parts between stages: packing, storing, unpacking, on one thread.

    python -m infra.benchmarks.handover --out infra/benchmarks/handover.json

A part of random arrays in the shapes of a model goes from encode to decode, in turn in the form
before (two Arrow streams of copied bytes in one binary value) and as it is packed now. ``stacked``
arrays are rows of one array, as stages download them; ``apart`` each image has memory of its own,
as prepare makes it, which packing must copy. Neither Ray, a model nor a GPU is needed: storing is
what Ray does with a packed row, a pickle with its buffers copied into memory that is there already.
Seconds are those that the thread computes, so other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs.benchmark.machine import describe_machine
from pipeline.diffusion.latents import stacked
from pipeline.records.packing import pack, unpack
from pipeline.records.part import Edit, Part, Sample


@dataclass(frozen=True)
class Shape:
    """What an edit of a model carries from encode to decode, one edit an image."""

    side: int  # pixels
    channels: int
    levels: int  # K + 1, of the trajectory in float16
    cell: int = 8  # pixels


SHAPES = {
    "sd15": Shape(512, 4, 41),  # 50 steps, r 0.8
    "sdxl": Shape(1024, 4, 41),
    "sd3": Shape(1024, 16, 23),  # 28 steps, r 0.8
}
TENSOR = pa.struct(
    [("dtype", pa.string()), ("shape", pa.list_(pa.int32())), ("data", pa.large_binary())]
)
SAMPLE_SCHEMA = pa.schema(
    [("key", pa.string()), *((name, TENSOR) for name in ("image", "latent", "trajectory"))]
)
EDIT_SCHEMA = pa.schema(
    [("text", pa.string()), *((name, TENSOR) for name in ("mask", "difference"))]
)


def main() -> None:
    """Times each shape in both forms and writes the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edits", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "edits": arguments.edits,
        "machine": describe_machine("cpu", 1),
        "parts": [],
    }
    for name in arguments.shapes:
        for form in ("stacked", "apart"):
            found = measured(SHAPES[name], arguments.edits, arguments.repeats, form)
            report["parts"].append({"shape": name, "arrays": form} | found)
            print(json.dumps(report["parts"][-1]), flush=True)
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def measured(shape: Shape, edits: int, repeats: int, form: str) -> dict[str, Any]:
    """CPU seconds of each step in both forms, in turn; rates by their medians."""
    part = drawn_part(shape, edits, form)
    size = sum(array.nbytes for array in arrays_of(part))
    store = np.ones(int(1.1 * size) + 2**20, np.uint8)  # touched, as Ray's memory is
    seconds: dict[str, list[float]] = {}

    def timed(step: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.thread_time()
        answer = call(*arguments)
        seconds.setdefault(step, []).append(round(time.thread_time() - start, 5))
        return answer

    for _ in range(repeats):
        row = timed("pack_before", packed_before, part)
        back = timed("unpack_before", unpacked_before, row)
        assert same(back, arrays_of(part))
        del row, back
        row = timed("pack", pack, part)
        stored = timed("store", stored_in, store, row)
        read = timed("unpack", read_from, *stored)
        assert same(arrays_of(read), arrays_of(part))
        for array in arrays_of(read):
            assert np.shares_memory(array, store)
        timed("stack", stack, read)
        del row, stored, read
    medians = {step: statistics.median(values) for step, values in seconds.items()}
    return {
        "bytes": size,
        "seconds": seconds,
        "gb_per_s": {step: round(size / value / 1e9, 2) for step, value in medians.items()},
        "pack_ratio": round(medians["pack_before"] / medians["pack"], 1),
        "unpack_ratio": round(medians["unpack_before"] / medians["unpack"], 1),
    }


def drawn_part(shape: Shape, edits: int, form: str) -> Part:
    """A part after the stage encode, of random arrays."""
    generator = np.random.default_rng(0)
    grid = shape.side // shape.cell

    def drawn(dtype: Any, *one: int) -> list[np.ndarray]:
        whole = np.frombuffer(
            generator.bytes(edits * int(np.prod(one)) * np.dtype(dtype).itemsize), dtype
        ).reshape(edits, *one)
        return [array.copy() for array in whole] if form == "apart" else list(whole)

    images = drawn(np.uint8, shape.side, shape.side, 3)
    latents = drawn(np.float32, shape.channels, grid, grid)
    trajectories = drawn(np.float16, shape.levels, shape.channels, grid, grid)
    masks, differences = (drawn(np.float32, grid, grid) for _ in range(2))
    part = Part("0", 0, 1)
    for index in range(edits):
        edit = Edit(0, "an edit", mask=masks[index], difference=differences[index])
        sample = Sample(str(index), image=images[index], edits=[edit])
        sample.latent, sample.trajectory = latents[index], trajectories[index]
        part.samples.append(sample)
    return part


def arrays_of(part: Part) -> list[np.ndarray]:
    """All arrays of the part, field by field within each image."""
    found = []
    for sample in part.samples:
        found += [sample.image, sample.latent, sample.trajectory]
        found += [sample.edits[0].mask, sample.edits[0].difference]
    return [array for array in found if array is not None]


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Whether all bits are equal."""
    return all(
        np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))
        for a, b in zip(found, expected, strict=True)
    )


def stored_in(store: np.ndarray, row: pa.Table) -> tuple[bytes, list[np.ndarray]]:
    """The row's pickle, and its buffers as read-only views of the store, each copied once."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(row, protocol=5, buffer_callback=buffers.append)
    views, start = [], 0
    for buffer in buffers:
        content = np.frombuffer(buffer.raw(), np.uint8)
        view = store[start : start + len(content)]
        np.copyto(view, content)
        view.flags.writeable = False
        views.append(view)
        start += -(-len(content) // 64) * 64
    return pickled, views


def read_from(pickled: bytes, buffers: list[np.ndarray]) -> Part:
    """The part that was stored."""
    return unpack(pickle.loads(pickled, buffers=buffers))


def stack(part: Part) -> None:
    """What a stage does with the arrays first: one tensor of each kind, to upload."""
    for field in ("image", "latent", "trajectory"):
        stacked([getattr(sample, field) for sample in part.samples])


def packed_before(part: Part) -> pa.Table:
    """A part's arrays as bytes in two Arrow streams, in one binary value of a row."""
    samples = [
        {"key": sample.key}
        | {name: _tensor(getattr(sample, name)) for name in SAMPLE_SCHEMA.names[1:]}
        for sample in part.samples
    ]
    edits = [
        {"text": edit.edit_text}
        | {name: _tensor(getattr(edit, name)) for name in EDIT_SCHEMA.names[1:]}
        for edit in part.edits
    ]
    sink = io.BytesIO()
    for rows, schema in ((samples, SAMPLE_SCHEMA), (edits, EDIT_SCHEMA)):
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    schema = pa.schema([("payload", pa.large_binary())])
    return pa.Table.from_pylist([{"payload": sink.getvalue()}], schema=schema)


def unpacked_before(row: pa.Table) -> list[np.ndarray]:
    """The arrays again, in the order of ``arrays_of``, each copied."""
    source = io.BytesIO(row.column("payload")[0].as_py())
    samples, edits = (pa.ipc.open_stream(source).read_all().to_pylist() for _ in range(2))
    return [
        np.frombuffer(value["data"], value["dtype"]).reshape(value["shape"]).copy()
        for pair in zip(samples, edits, strict=True)
        for record in pair
        for value in record.values()
        if isinstance(value, dict)
    ]


def _tensor(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": array.shape, "data": array.tobytes()}


if __name__ == "__main__":
    main()
