"""Runs mutated samples through read, prepare and finish; prints counts of the outcomes.

    python -m tests.steps.fuzz_samples NUM_SAMPLES SEED

Everything is drawn from the seed. It runs as its own process, to measure its memory.
"""

from __future__ import annotations

import gc
import io
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from pipeline.config.buckets import Sizes
from pipeline.config.input import Input
from pipeline.records.part import Part, Status
from pipeline.steps.cut_parts import plan_parts
from pipeline.steps.grouping import split_key
from pipeline.steps.prepare import Preparation, prepare
from pipeline.steps.read import read_shard
from pipeline.storage.archive import split_at_first_dot
from tests.committing import SIZE, invert, make_config, make_context, table_of
from tests.packed import from_bytes, to_bytes
from tests.samples import declared_png, pixels

PER_SHARD = 50
MAX_PIXELS = 10**6
CONFIG = Input(shards="x", image=["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "ppm"])
HOW = Preparation(
    sizes=Sizes(SIZE),
    resize="crop",
    resolution="model",
    max_pixels=MAX_PIXELS,
    suffixes=tuple(CONFIG.image),
)
Members = list[tuple[bytes, bytes]]  # (name, content); names need not be UTF-8


def samples() -> list[bytes]:
    """Undamaged files of every format and mode."""
    image = Image.fromarray(pixels(1, 24, 32))
    alpha = image.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = Image.fromarray((pixels(2, 24, 32)[..., 0].astype(np.uint16)) * 257)
    palette = image.convert("P")
    return [
        *(_saved(image.convert(mode), "PNG") for mode in ("1", "L", "P", "RGB", "LA")),
        *(_saved(image.convert(mode), "JPEG") for mode in ("L", "RGB", "CMYK", "YCbCr")),
        *(_saved(image.convert(mode), "TIFF") for mode in ("1", "CMYK", "I", "F", "LAB")),
        *(_saved(deep, form) for form in ("PNG", "TIFF", "PPM")),
        *(_saved(alpha, form) for form in ("PNG", "WEBP", "TIFF")),
        _saved(palette, "PNG", transparency=3),
        _saved(palette, "GIF", transparency=3),
        _saved(palette, "PNG", transparency=bytes(range(256))),
        *(_saved(image, form) for form in ("BMP", "PPM", "WEBP")),
        _saved(image, "JPEG", progressive=True, exif=_turned(6)),
        *(_saved(image, form, save_all=True, append_images=[alpha]) for form in ("PNG", "WEBP")),
        _saved(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
        _saved(image.resize((1, 1)), "PNG"),
        _saved(image.resize((700, 1)), "JPEG"),
        declared_png(20_000, 20_000),
        declared_png(1, 2**31 - 1),
        declared_png(0, 0),
        _saved(Image.new("1", (999, 1000)), "PNG"),  # 250 bytes with the most pixels allowed
        _saved(Image.new("L", (4000, 4000)), "PNG"),  # sixteen times as many
    ]


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


KEYS = (
    "../up", "/abs", "a/../../b", "ünïcödé/猫", "with space", "a\\b", "x\ny", "%2E", "nul\0l",
    "-rf", "~", ".hidden", "a/.b", "a//b", "con", "🐈" * 50, "k" * 200, "d/" * 40 + "k",
    "\u202egpj", "__key__",
)  # fmt: skip
NAME_BYTES = (b"\xff\xfe", b"\xc3", b"\xed\xa0\x80")  # not UTF-8
TEXTS = (
    b"", b" ", b"\n\n", b"\xff\xfe\x00a", b"\xef\xbb\xbfa dog", b"a\0b", b"\xed\xa0\x80",
    b"a\r\nb\rc", "猫\u2028\u202e".encode(), b"dog " * 5000, b"x" * 50_000, b"a\n" * 70,
    b"a cat\n\na fox", b"$(rm -rf /)",
)  # fmt: skip
JSONS = (
    b"", b"null", b"[]", b"3", b'"text"', b"{", b"{}", b'{"a": NaN}', b'{"a": 1e999}', b"[" * 5000,
    b'{"a":' * 3000, b'{"seed": -1}', b'{"seed": 1e3}', b'{"seed": ' + b"9" * 4000 + b"}",
    b'{"seed": ' + b"9" * 5000 + b"}", b'{"encode_ratio": "half"}', b'{"encode_ratio": 2}',
    b'{"strength": null, "guidance_scale": []}', b'{"caption": 7}', b'{"caption": "\\ud800"}',
    b'{"edits": [""]}', b'{"edits": {}}', b'{"edits": [1]}', b'{"edit": "\\u0000"}', b"\xff{}",
    b'{"\\ud800": "\\udfff"}', b'{"__class__": "os.system", "encode_ratio": 0.5}',
    b'{"edits": ' + json.dumps(["a"] * 70).encode() + b"}",
)  # fmt: skip
OTHERS = ("pkl", "pyd", "npy", "cls", "mask.png", "edit.txt", "", "a.b.c", "_x", "JPG", "__key__")


def sample(rng: np.random.Generator, number: int, files: list[bytes]) -> Members:
    """The members of one sample, with seeded faults or none."""

    def one_of(options: Any) -> Any:
        return options[int(rng.integers(len(options)))]

    key = f"{number:06d}".encode()
    if rng.random() < 0.2:
        key = key + one_of(KEYS).encode() if rng.random() < 0.5 else one_of(KEYS).encode() + key
    if rng.random() < 0.02:
        key += one_of(NAME_BYTES)
    members = {
        one_of(CONFIG.image).encode(): damaged(rng, one_of(files)),
        b"txt": b"a dog" if rng.random() < 0.7 else one_of(TEXTS),
        b"edit.txt": b"a cat\na fox" if rng.random() < 0.7 else one_of(TEXTS),
    }
    if rng.random() < 0.3:
        members[b"json"] = one_of(JSONS) if rng.random() < 0.8 else damaged(rng, one_of(JSONS))
    if rng.random() < 0.2:
        members[one_of(OTHERS).encode()] = damaged(rng, one_of(files))
    for name in list(members):
        if rng.random() < 0.05:
            del members[name]
    return [(key + b"." + suffix if suffix else key, data) for suffix, data in members.items()]


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """The data, half of the time unchanged, or cut, flipped, filled, repeated or extended."""
    changed = bytearray(data)
    if not data or rng.random() < 0.5:
        return data
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(changed) + 1))
        how = int(rng.integers(5))
        if how == 0:
            del changed[place:]
        elif how == 1 and place < len(changed):
            changed[place] ^= 1 << int(rng.integers(8))
        elif how == 2:
            changed[place : place + 4] = b"\xff\xff\xff\xff"
        elif how == 3:
            changed += changed[place : place + 1000]
        else:
            changed[place:place] = rng.bytes(int(rng.integers(1, 20)))
    return bytes(changed)


def tar_of(members: Members) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def check_shard(tar: bytes, outcomes: Counter[str]) -> int:
    """Checks that every sample of a shard becomes rows with a status; returns their number."""
    contents = read_shard(tar, CONFIG)
    num_rows, seen = 0, set()
    for index, chunk in enumerate(plan_parts(contents.samples, 64)):
        part = from_bytes(to_bytes(Part("s", index, 1, chunk, contents.problem)))
        part = prepare(part, HOW)
        table = table_of(invert(from_bytes(to_bytes(part))), CONTEXT)
        for row in table.to_pylist():
            check_row(row)
            outcomes[f"{row['stage']}: {row['error']}" if row["error"] else row["status"]] += 1
            seen.add(row["key"])
        num_rows += table.num_rows
    assert seen == {sample.key for sample in contents.samples}
    return num_rows


def check_row(row: dict[str, Any]) -> None:
    assert row["status"] in set(Status), row["status"]
    if row["status"] == Status.FAILED:
        assert row["error"], row
        assert row["message"], row
    if row["status"] == Status.EDITED:
        key = row["output_key"]
        assert not key.startswith("/")
        assert ".." not in key
        for member in row["members"]:
            assert split_at_first_dot(f"{key}.{member['suffix']}") == (key, member["suffix"])


CONTEXT = make_context(make_config())


def peak_bytes() -> int:
    """The most resident memory that this process has had.

    On Linux, getrusage also counts the parent's memory at the start of this process.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def main(num_samples: int, seed: int) -> dict[str, Any]:
    """JSON-able: samples, rows, outcomes by kind, and memory growth in bytes."""
    rng, files = np.random.default_rng(seed), samples()
    outcomes: Counter[str] = Counter()
    num_rows = num_found = 0
    process = psutil.Process()
    rss_start = 0
    for start in range(0, num_samples, PER_SHARD):
        members = [
            member for n in range(start, start + PER_SHARD) for member in sample(rng, n, files)
        ]
        tar = tar_of(members)
        names = [split_key(name.decode("utf-8", "surrogateescape"), CONFIG) for name, _ in members]
        num_found += len({key for key, suffix in names if key is not None and suffix is not None})
        num_rows += check_shard(tar, outcomes)
        if start == 10 * PER_SHARD:  # by now libraries are loaded and memory pools are filled
            gc.collect()
            rss_start = process.memory_info().rss
    gc.collect()
    peak = peak_bytes()
    return {
        "samples": num_found,
        "rows": num_rows,
        "outcomes": dict(outcomes.most_common()),
        "grown_bytes": process.memory_info().rss - rss_start,
        "peak_bytes": peak - rss_start,
        "seconds": round(sum(process.cpu_times()[:2]), 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
