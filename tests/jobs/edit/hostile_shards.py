"""Shards that were made to stop or starve a run, and the innocent ones beside them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from pathlib import Path

import pyarrow as pa
from PIL import Image

from pipeline.images.files import START_OF_SCAN
from pipeline.storage.layout import StagedPart, generation_of
from tests.samples import declared_png, pixels, raw_sample, shard_bytes, write_shard

INNOCENT = [f"m-innocent{number}" for number in range(10)]
SIZE = 20 << 20  # bytes of the tars that are slow to walk
BOMB = 1 << 29  # bytes that a compressed one unpacks to
# By shard, in the order in which they are read: what the driver says of it, or None: published.
UNPUBLISHED = {
    "a-page": "it is no tar but text",
    "a-nothing": "the file is empty",
    "a-zipped": "it is compressed by gzip",
    "a-bomb": "unpacks to more than",
    "z-bomb": "unpacks to more than",
    "z-header-zipped": "unpacks to more than",
}
# By shard and key: error of the sample's rows. These shards have an innocent sample too.
FAILED = {
    ("a-texts", "blank"): "TooManyEdits",
    ("a-texts", "caption"): "TooLarge",
    ("a-copies", "json"): "TooLarge",
    ("a-copies", "files"): "TooLarge",
    ("a-images", "scans"): "TooManyScans",
    ("a-images", "huge"): "TooLarge",
    ("a-images", "deep"): "BadJson",
}
# Published without an edit: what was damaged may have been a file of any sample behind it.
DAMAGED = ("z-header", "z-zeros", "z-pax", "z-pax-chain")
KEYS = ("../../up", "\x1b[2J", "line\nline", "[/x]", "/abs", "a\x07b", "=cmd()", "k" * 300)


def write_innocent(folder: Path) -> None:
    for number, name in enumerate(INNOCENT):
        samples = [raw_sample(f"{name}-{n}", seed=10 * number + n) for n in range(4)]
        write_shard(folder / f"{name}.tar", samples)


def write_hostile(folder: Path) -> None:
    """All that the issue on integrity lists, as one input."""
    page = b"<!DOCTYPE html><title>403</title>" * 1000
    bomb = _zeros(b"")
    good = raw_sample("good")
    files = {
        "a-page.tar": page,
        "a-nothing.tar": b"",
        "a-zipped.tar": bomb,
        "a-bomb.tar.gz": bomb,
        "z-bomb.tar.zst": bytes(pa.Codec("zstd").compress(bytes(BOMB), asbytes=True)),
        "z-header.tar": _header_bomb(),
        "z-header-zipped.tar.gz": _header_bomb(),
        "z-zeros.tar": _repeated(_member("a.txt") + bytes(512)),
        "z-pax.tar": _repeated(_pax(b"30 comment=0123456789abcdefg\n")),
        "z-pax-chain.tar": _repeated(_pax(b"14 path=good.x\n"[:14])),
        "a-texts.tar": shard_bytes(
            [
                raw_sample("blank", caption="c" * 1_000_000) | {"edit.txt": "\n" * 4000 + "x"},
                raw_sample("caption", caption="c" * 1_000_000),
                good,
            ]
        ),
        "a-copies.tar": shard_bytes(
            [
                raw_sample("json", _texts(1000), json=_json(1_000_000)),
                raw_sample("files", _texts(1000), npy=bytes(1_000_000)),
                good,
            ]
        ),
        # As large as is allowed: each of these files is written with each of the edits.
        "a-allowed.tar": shard_bytes([raw_sample("most", _texts(120), npy=bytes(4_000_000)), good]),
        "a-keys.tar": shard_bytes([*(raw_sample(key) for key in KEYS), good]),
    }
    scans = {name: value for name, value in good.items() if name != "png"}
    files["a-images.tar"] = shard_bytes(
        [
            scans | {"__key__": "scans", "jpg": _scans(1000)},
            good | {"__key__": "huge", "png": declared_png(100_000, 100_000)},
            good | {"__key__": "deep", "json": '{"a":' * 100_000 + "1" + "}" * 100_000},
            good,
        ]
    )
    for name, data in files.items():
        (folder / name).write_bytes(data)


def put_beside(output: Path, shards: list[tuple[str, bytes, bytes]]) -> None:
    """Puts staged parts into an output that are cut, flipped, or of other shards and numbers.

    Args:
        output: the run's.
        shards: name and content of each innocent shard of two parts, and its staged first part.
    """

    def put(shard: int, index: int, data: bytes, num_parts: int = 2, content: int = -1) -> None:
        name, tar, _ = shards[shard]
        tar = tar if content < 0 else shards[content][1]
        generation = generation_of(hashlib.sha256(tar).hexdigest(), None)
        path = output / StagedPart(name, index, num_parts, generation).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    parts = [part for _, _, part in shards]
    put(0, 0, parts[0][: len(parts[0]) // 2])
    put(1, 0, parts[2])
    put(2, 1, parts[2])
    put(3, 0, parts[3], num_parts=7)
    put(4, 0, parts[4], content=5)
    put(5, 0, parts[5][:900] + bytes([parts[5][900] ^ 1]) + parts[5][901:])
    put(6, 0, b"no part at all")
    put(7, 0, b"")
    put(8, 0, parts[8])  # this one is right


def _texts(number: int) -> list[str]:
    return [f"a cat {n}" for n in range(number)]


def _json(size: int) -> str:
    return json.dumps({"text": "x" * size})


def _zeros(start: bytes) -> bytes:
    """A gzip stream of ``BOMB`` zeros; ``start`` is put in place of its header."""
    packer = zlib.compressobj(1, wbits=-15 if start else 31)
    chunk = bytes(1 << 20)
    data = b"".join(packer.compress(chunk) for _ in range(BOMB >> 20))
    return start + data + packer.flush()


def _header_bomb() -> bytes:
    """A tar whose first header is the header of a gzip stream, too; the member is the stream."""
    extra = tarfile.BLOCKSIZE - 12  # the rest of the block is gzip's extra field (RFC 1952)
    name = b"\x1f\x8b\x08\x04aaaa\x02\x03" + extra.to_bytes(2, "little") + b"a.txt"
    content = _zeros(b"x")[1:]
    info = tarfile.TarInfo(name.decode("latin-1"))
    info.size = len(content)
    block = info.tobuf(tarfile.USTAR_FORMAT, "latin-1")
    assert zlib.decompressobj(31).decompress(block + content, 1000) == bytes(1000)
    return block + content + bytes(-len(content) % tarfile.BLOCKSIZE + 1024)


def _member(name: str) -> bytes:
    return tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)


def _pax(records: bytes) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % tarfile.BLOCKSIZE)


def _repeated(piece: bytes) -> bytes:
    """``SIZE`` bytes of a tar, and an innocent sample behind them."""
    return piece * (SIZE // len(piece)) + shard_bytes([raw_sample("good")])


def _scans(number: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    sink = io.BytesIO()
    Image.fromarray(pixels(0, 2000, 2000)).save(sink, "JPEG", progressive=True)
    data = sink.getvalue()
    last = data.rindex(START_OF_SCAN)
    return data[:last] + data[last:-2] * number + data[-2:]
