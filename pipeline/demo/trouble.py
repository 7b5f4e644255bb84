"""Deliberately difficult or broken samples, which a job must handle without failing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.demo.captions import caption
from pipeline.demo.edits import Edit, draw_edit
from pipeline.demo.samples import Members, edit_sample, image_bytes, png_bytes
from pipeline.demo.world import paint

_SEED = 2210
_EXIF_ORIENTATION = 0x0112
_TURNED_RIGHT = 6  # the viewer has to rotate the stored image by 90 degrees clockwise
FOUR_KINDS = ("color", "shape", "background", "object")


def cut_short(edit: Edit, key: str) -> Members:
    """A JPEG that is truncated in the middle of its pixel data."""
    sample = edit_sample(edit, key)
    return {**sample, "jpg": sample["jpg"][: len(sample["jpg"]) // 2]}


def not_a_picture(edit: Edit, key: str) -> Members:
    """A member named .jpg that holds text."""
    return {**edit_sample(edit, key), "jpg": b"404: not found\n"}


def without_caption(edit: Edit, key: str) -> Members:
    """An image and an edit text, but no caption."""
    sample = edit_sample(edit, key)
    del sample["txt"]
    return sample


def equal_texts(edit: Edit, key: str) -> Members:
    """An edit text that equals the caption."""
    same = Edit(edit.kind, edit.source, edit.source, edit.caption, edit.caption, ())
    return edit_sample(same, key)


def equal_but_for_case(edit: Edit, key: str) -> Members:
    """An edit text that differs from the caption in case only, so it has the same tokens."""
    same = Edit(edit.kind, edit.source, edit.source, edit.caption, edit.caption.title(), ())
    return edit_sample(same, key)


def four_edit_texts(edit: Edit, key: str) -> Members:
    """Four different edits of one image; the ground truth is that of the first."""
    rng = np.random.default_rng(_SEED)
    edits = [draw_edit(rng, edit.source, kind) for kind in FOUR_KINDS]
    sample = edit_sample(edits[0], key)
    texts = [caption(edits[0].source), *(caption(each.target) for each in edits)]
    return {**sample, "txt": texts[0].encode(), "edit.txt": "\n".join(texts[1:]).encode()}


def turned_by_exif(edit: Edit, key: str) -> Members:
    """A JPEG that is stored rotated, with an EXIF orientation to undo it."""
    image = Image.fromarray(paint(edit.source)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = _TURNED_RIGHT
    return {
        **edit_sample(edit, key),
        "jpg": image_bytes(image, "JPEG", quality=95, subsampling=0, exif=exif),
    }


def cmyk(edit: Edit, key: str) -> Members:
    """A JPEG in CMYK."""
    image = Image.fromarray(paint(edit.source)).convert("CMYK")
    return {**edit_sample(edit, key), "jpg": image_bytes(image, "JPEG", quality=95)}


def with_alpha(edit: Edit, key: str) -> Members:
    """A PNG with transparent corners."""
    pixels = paint(edit.source)
    side = len(pixels)
    offset = np.abs(np.arange(side) - (side - 1) / 2) - 0.42 * side
    corner = np.hypot(np.maximum(offset, 0)[:, None], np.maximum(offset, 0)[None])
    alpha = np.where(corner > 0.06 * side, 0, 255).astype(np.uint8)
    sample = edit_sample(edit, key, image_format="png")
    return {**sample, "png": png_bytes(np.dstack([pixels, alpha]))}


def webp(edit: Edit, key: str) -> Members:
    """A WebP image."""
    return edit_sample(edit, key, image_format="webp")


# Shard and position of each such sample in the demo's input, and the function that makes it. The
# functions' names are the kinds in trouble.json.
TROUBLE: dict[tuple[int, int], Callable[[Edit, str], Members]] = {
    (0, 5): cut_short,
    (0, 20): equal_texts,
    (1, 3): not_a_picture,
    (1, 10): without_caption,
    (1, 30): equal_but_for_case,
    (2, 2): four_edit_texts,
    (3, 1): turned_by_exif,
    (3, 4): cmyk,
    (3, 7): with_alpha,
    (3, 9): webp,
}
