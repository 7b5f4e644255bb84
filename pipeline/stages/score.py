"""The optional fourth stage: scores that need a network, over the edits of a part."""

from __future__ import annotations

import math

from pipeline.config.method import Composite
from pipeline.images.composite import composite, mask_of
from pipeline.models.scorers import Judged, Scorers
from pipeline.records.part import Edit, Part, Picture


class ScoreStage:
    """Gives each edit its scores: of the model's picture, composited as it will be written.

    That is before any lossy encoding and, with ``output.resolution: source``, before the picture is
    scaled back, so that a score does not depend on the output's form.
    """

    def __init__(self, scorers: Scorers, settings: Composite) -> None:
        self.scorers = scorers
        self.feather = settings.feather if settings.enabled else None

    def __call__(self, part: Part) -> Part:
        part.device = self.scorers.device_kind
        pictures = [picture for picture in part.pictures if picture.image is not None]
        pictures = [picture for picture in pictures if _decoded(picture)]
        edits = [(number, edit) for number, p in enumerate(pictures) for edit in _decoded(p)]
        if not edits:
            return part
        before = [picture.image for picture in pictures if picture.image is not None]
        judged = [self._judged(number, pictures[number], edit) for number, edit in edits]
        for (_, edit), scores in zip(edits, self.scorers(before, judged), strict=True):
            edit.scores = {name: _finite(value) for name, value in scores.items()}
            missing = [name for name, value in edit.scores.items() if value is None]
            if missing:
                edit.notes.append(f"not finite, and so left out: {', '.join(missing)}")
        return part

    def _judged(self, number: int, picture: Picture, edit: Edit) -> Judged:
        assert picture.image is not None
        assert edit.image is not None
        made = composite(picture.image, edit.image, mask_of(picture, edit), feather=self.feather)
        return Judged(number, made.pixels, picture.caption or "", edit.edit_text or "")


def _decoded(picture: Picture) -> list[Edit]:
    """The edits in flight that have a picture; ``finish`` says of others that they have none."""
    return [edit for edit in picture.pending if edit.image is not None]


def _finite(value: float) -> float | None:
    """Six significant digits; None where the network gave no number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
