"""Makes the images and shards that tests read, from seeds."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Sample = Mapping[str, Any]  # "__key__", and members by suffix: bytes, str, or a dict for JSON


def pixels(seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    """(height, width, 3) uint8: a random image, smooth so that lossy formats change it little."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: np.ndarray, suffix: str = "png", **options: Any) -> bytes:
    """Encodes an image to a file's bytes; ``options`` are Pillow's (``exif=``, ``quality=``)."""
    sink = io.BytesIO()
    form = {"jpg": "jpeg"}.get(suffix, suffix)
    Image.fromarray(image).save(sink, form, **options)
    return sink.getvalue()


def raw_sample(
    key: str,
    edit_texts: Iterable[str] = ("a cat",),
    caption: str | None = "a dog",
    suffix: str = "png",
    seed: int = 0,
    **members: Any,
) -> dict[str, Any]:
    """One sample. ``members`` are further ones by suffix, with ``__`` for a dot (``mask__png``)."""
    sample: dict[str, Any] = {"__key__": key, suffix: encode(pixels(seed), suffix)}
    if caption is not None:
        sample["txt"] = caption
    edit_texts = list(edit_texts)
    if edit_texts:
        sample["edit.txt"] = "\n".join(edit_texts)
    return sample | {name.replace("__", "."): value for name, value in members.items()}


def shard_bytes(samples: Iterable[Sample]) -> bytes:
    """A byte-stable tar of samples. Without ``__key__``, a sample's names are whole file names."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            prefix = f"{sample['__key__']}." if "__key__" in sample else ""
            for name, value in sample.items():
                if name == "__key__":
                    continue
                if isinstance(value, dict | list):
                    value = json.dumps(value)
                data = value.encode() if isinstance(value, str) else value
                info = tarfile.TarInfo(prefix + name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def write_shard(path: str | Path, samples: Iterable[Sample]) -> Path:
    """Writes ``shard_bytes(samples)`` to a local path; creates its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(shard_bytes(samples))
    return path


def declared_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header declares any size, like a small decompression bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1024))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
