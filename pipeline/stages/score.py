"""The optional fourth stage: scores that need a network, over the edits of a part."""

from __future__ import annotations

import math

from pipeline.config.method import Composite
from pipeline.images.composite import composite, mask_of
from pipeline.models.scorers import EditToScore, Scorers
from pipeline.records.part import Edit, Part, Sample


class ScoreStage:
    """Gives each edit its scores: of the model's image, composited as it will be written.

    That is before any lossy encoding and, with ``output.resolution: source``, before the image is
    scaled back, so that a score does not depend on the output's form.
    """

    def __init__(self, scorers: Scorers, settings: Composite) -> None:
        self.scorers = scorers
        self.feather = settings.feather if settings.enabled else None

    def __call__(self, part: Part) -> Part:
        part.device = self.scorers.device_kind
        samples = [sample for sample in part.samples if sample.image is not None]
        samples = [sample for sample in samples if _decoded(sample)]
        edits = [(number, edit) for number, p in enumerate(samples) for edit in _decoded(p)]
        if not edits:
            return part
        before = [sample.image for sample in samples if sample.image is not None]
        judged = [self._judged(number, samples[number], edit) for number, edit in edits]
        for (_, edit), scores in zip(edits, self.scorers(before, judged), strict=True):
            edit.scores = {name: _finite(value) for name, value in scores.items()}
            missing = [name for name, value in edit.scores.items() if value is None]
            if missing:
                edit.notes.append(f"not finite, and so left out: {', '.join(missing)}")
        return part

    def _judged(self, number: int, sample: Sample, edit: Edit) -> EditToScore:
        assert sample.image is not None
        assert edit.image is not None
        made = composite(sample.image, edit.image, mask_of(sample, edit), feather=self.feather)
        return EditToScore(number, made.pixels, sample.caption or "", edit.edit_text or "")


def _decoded(sample: Sample) -> list[Edit]:
    """The edits in flight that have an image; ``finish`` says of others that they have none."""
    return [edit for edit in sample.pending if edit.image is not None]


def _finite(value: float) -> float | None:
    """Six significant digits; None where the network gave no number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
