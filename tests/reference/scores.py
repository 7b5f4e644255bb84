"""The scores of CLIP and DINO in float64, one pair at a time."""

from __future__ import annotations

import numpy as np


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """The cosine of two vectors; 0 if one of them is zero."""
    lengths = np.sqrt((first * first).sum()) * np.sqrt((second * second).sum())
    return float((first * second).sum() / lengths) if lengths else 0.0


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt((vector * vector).sum())


def clip(
    before: np.ndarray, after: np.ndarray, caption: np.ndarray, edit_text: np.ndarray
) -> dict[str, float]:
    """InstructPix2Pix's four similarities, from CLIP's projected features of any length."""
    before, after, caption, edit_text = (
        unit(np.asarray(features, np.float64)) for features in (before, after, caption, edit_text)
    )
    return {
        "clip_text_before": cosine(before, caption),
        "clip_text_after": cosine(after, edit_text),
        "clip_image": cosine(before, after),
        "clip_directional": cosine(after - before, edit_text - caption),
    }


def structure_distance(keys: np.ndarray, other_keys: np.ndarray) -> float:
    """Splice's distance: the mean squared difference of the keys' cosines, over pairs of tokens."""
    total, count = 0.0, len(keys)
    for row in range(count):
        for column in range(count):
            first = cosine(keys[row].astype(np.float64), keys[column].astype(np.float64))
            second = cosine(
                other_keys[row].astype(np.float64), other_keys[column].astype(np.float64)
            )
            total += (first - second) ** 2
    return total / count**2
