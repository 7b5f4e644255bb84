"""Figures of the annotated region and of the background that need a network.

As in PIE-Bench, images are multiplied by a mask first. LPIPS gets both images with the region
blacked out. CLIP gets the image after the edit with the background blacked out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.measure import Image, Seen
from pipeline.models.scorers import Scorers


class RegionJudge:
    """LPIPS of the background and CLIP similarity of the region, computed with a run's scorers.

    Also adds the CLIP figures that rows of unchanged edits lack, because the score stage skips
    them: the similarity of image and text, and 100 for the image's similarity to itself.
    """

    def __init__(self, scorers: Scorers) -> None:
        self.scorers = scorers

    def edits(self, seen: Sequence[Seen]) -> list[dict[str, float]]:
        """lpips_frame_e3, clip_edited and clip_whole, if they can be computed.

        A task without a background pixel has no LPIPS of the background; PIE-Bench leaves such
        tasks out. Similarities are cosines times 100, and at least 0, as in CLIPScore.
        """
        figures: list[dict[str, float]] = [{} for _ in seen]
        if self.scorers.lpips is not None:
            numbers = [n for n, item in enumerate(seen) if _has_background(item)]
            before = [blacked_out(seen[n].before, ~_truth(seen[n])) for n in numbers]
            after = [blacked_out(seen[n].after, ~_truth(seen[n])) for n in numbers]
            for number, value in zip(numbers, self.scorers.distances(before, after), strict=True):
                figures[number]["lpips_frame_e3"] = 1e3 * value
        if self.scorers.clip is not None:
            annotated = [n for n, item in enumerate(seen) if item.truth is not None]
            images = [blacked_out(seen[n].after, _truth(seen[n])) for n in annotated]
            self._add_agreement(figures, "clip_edited", annotated, images, seen)
            unchanged = [n for n, item in enumerate(seen) if item.is_unchanged]
            images = [seen[n].after for n in unchanged]
            self._add_agreement(figures, "clip_whole", unchanged, images, seen)
            for number in unchanged:
                figures[number]["clip_image"] = 100.0
        return figures

    def whole(self) -> dict[str, float]:
        """No figures beyond the means."""
        return {}

    def _add_agreement(
        self,
        figures: list[dict[str, float]],
        name: str,
        numbers: list[int],
        images: list[Image],
        seen: Sequence[Seen],
    ) -> None:
        """Sets the figure ``name`` of some edits to the similarity of image and edit text."""
        texts = [seen[n].edit_text for n in numbers]
        for number, cosine in zip(numbers, self.scorers.agreement(images, texts), strict=True):
            figures[number][name] = max(100.0 * cosine, 0.0)


def blacked_out(image: Image, keep: NDArray[np.bool_]) -> Image:
    """The image, (H, W, 3) uint8, with pixels black where ``keep``, (H, W) bool, is false."""
    return image * keep[..., None]


def _truth(item: Seen) -> NDArray[np.bool_]:
    assert item.truth is not None
    return item.truth


def _has_background(item: Seen) -> bool:
    return item.truth is not None and not item.truth.all()
