"""Figures of the annotated region and of what lies around it that need a network.

PIE-Bench multiplies images by a mask before they are judged: LPIPS sees both with the region
blacked out, CLIP sees the image after with everything else blacked out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.measure import Image, Seen
from pipeline.models.scorers import Scorers


class RegionJudge:
    """LPIPS of the background, CLIP similarity of the edited region, by a run's own scorers.

    Also what a row of an unchanged edit lacks, since no stage judged it: CLIP of the whole, and 100
    for its likeness to itself.
    """

    def __init__(self, scorers: Scorers) -> None:
        self.scorers = scorers

    def edits(self, seen: Sequence[Seen]) -> list[dict[str, float]]:
        """lpips_frame_e3, clip_edited and clip_whole, where they can be had.

        Without a background pixel there is no LPIPS of the background: PIE-Bench leaves those
        tasks out. Similarities are cosines times 100, and at least 0, as CLIPScore says.
        """
        figures: list[dict[str, float]] = [{} for _ in seen]
        if self.scorers.lpips is not None:
            around = [n for n, item in enumerate(seen) if _has_background(item)]
            before = [blacked(seen[n].before, ~_truth(seen[n])) for n in around]
            after = [blacked(seen[n].after, ~_truth(seen[n])) for n in around]
            for number, value in zip(around, self.scorers.distances(before, after), strict=True):
                figures[number]["lpips_frame_e3"] = 1e3 * value
        if self.scorers.clip is not None:
            inside = [n for n, item in enumerate(seen) if item.truth is not None]
            images = [blacked(seen[n].after, _truth(seen[n])) for n in inside]
            self._agreement(figures, "clip_edited", inside, images, seen)
            same = [n for n, item in enumerate(seen) if item.is_unchanged]
            self._agreement(figures, "clip_whole", same, [seen[n].after for n in same], seen)
            for number in same:
                figures[number]["clip_image"] = 100.0
        return figures

    def whole(self) -> dict[str, float]:
        """Nothing beyond the means."""
        return {}

    def _agreement(
        self,
        figures: list[dict[str, float]],
        name: str,
        numbers: list[int],
        images: list[Image],
        seen: Sequence[Seen],
    ) -> None:
        texts = [seen[n].edit_text for n in numbers]
        for number, cosine in zip(numbers, self.scorers.agreement(images, texts), strict=True):
            figures[number][name] = max(100.0 * cosine, 0.0)


def blacked(image: Image, keep: NDArray[np.bool_]) -> Image:
    """An image with every pixel black that is not kept; (H, W, 3) uint8 and (H, W) bool."""
    return image * keep[..., None]


def _truth(item: Seen) -> NDArray[np.bool_]:
    assert item.truth is not None
    return item.truth


def _has_background(item: Seen) -> bool:
    return item.truth is not None and not item.truth.all()
