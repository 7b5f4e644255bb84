"""Samples of the demo world in the input format, with the ground truth of the edit.

Equal edits give equal bytes. The files of a sample:

    key.jpg         the image (or .png, .webp)
    key.txt         its caption
    key.edit.txt    edit texts, one per line
    key.json        kind of edit, both scenes, the objects that change
    key.target.png  the true image after the (first) edit
    key.truth.png   where the two true images differ: 255, else 0
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from numpy.typing import NDArray
from PIL import Image

from pipeline.demo.edits import Edit, true_mask
from pipeline.demo.world import paint

Members = dict[str, Any]  # "__key__" and bytes by extension


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of (h, w) gray, (h, w, 3) RGB or (h, w, 4) RGBA uint8 pixels."""
    return image_bytes(Image.fromarray(pixels), "PNG")


def image_bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An encoded image file; `kind` and `options` are those of PIL's `save`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def edit_sample(edit: Edit, key: str, *, image_format: str = "jpg") -> Members:
    """One sample in the input format, with its ground truth.

    Args:
        image_format: "jpg" (quality 95, no chroma subsampling), "png" or "webp" (lossless).

    Raises:
        ValueError: the image format is unknown.
    """
    options: dict[str, tuple[str, dict[str, Any]]] = {
        "jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
        "png": ("PNG", {}),
        "webp": ("WEBP", {"lossless": True}),
    }
    if image_format not in options:
        raise ValueError(f"image_format: got {image_format!r}, allowed are {', '.join(options)}")
    kind, settings = options[image_format]
    facts = {
        "kind": edit.kind,
        "changed": edit.changed,
        "source_scene": asdict(edit.source),
        "target_scene": asdict(edit.target),
    }
    return {
        "__key__": key,
        image_format: image_bytes(Image.fromarray(paint(edit.source)), kind, **settings),
        "txt": edit.caption.encode(),
        "edit.txt": edit.edit_text.encode(),
        "json": json.dumps(facts, sort_keys=True).encode(),
        "target.png": png_bytes(paint(edit.target)),
        "truth.png": png_bytes(true_mask(edit).astype(np.uint8) * 255),
    }


def write_shard(path: Path, samples: Iterable[Members]) -> None:
    """Write one tar, atomically, with fixed times, owner and member order."""
    partial = path.with_name(path.name + ".partial")
    with webdataset.TarWriter(
        str(partial), encoder=False, mtime=0, user="overpaint", group="overpaint", compress=False
    ) as tar:
        for sample in samples:
            tar.write(sample)
    partial.replace(path)
