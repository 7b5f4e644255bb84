"""The optional fourth stage: computes scores that need a network, for the edits of a part."""

from __future__ import annotations

import math

from pipeline.config.method import Composite
from pipeline.images.composite import composite, mask_of
from pipeline.models.scorers import EditToScore, Scorers
from pipeline.records.part import Edit, Part, Sample


class ScoreStage:
    """Sets each edit's scores, computed on the composited image at the model's size.

    This image has no lossy encoding and, with ``output.resolution: source``, is not scaled back
    yet, so scores do not depend on the output's format and resolution.
    """

    def __init__(self, scorers: Scorers, settings: Composite) -> None:
        self.scorers = scorers
        self.feather = settings.feather if settings.enabled else None

    def __call__(self, part: Part) -> Part:
        part.device = self.scorers.device_kind
        samples = [sample for sample in part.samples if sample.image is not None]
        samples = [sample for sample in samples if _decoded(sample)]
        edits = [(index, edit) for index, p in enumerate(samples) for edit in _decoded(p)]
        if not edits:
            return part
        before = [sample.image for sample in samples if sample.image is not None]
        inputs = [self._scorer_input(index, samples[index], edit) for index, edit in edits]
        for (_, edit), scores in zip(edits, self.scorers(before, inputs), strict=True):
            edit.scores = {name: _finite(value) for name, value in scores.items()}
            missing = [name for name, value in edit.scores.items() if value is None]
            if missing:
                edit.notes.append(f"not finite, and so left out: {', '.join(missing)}")
        return part

    def _scorer_input(self, index: int, sample: Sample, edit: Edit) -> EditToScore:
        assert sample.image is not None
        assert edit.image is not None
        result = composite(sample.image, edit.image, mask_of(sample, edit), feather=self.feather)
        return EditToScore(index, result.pixels, sample.caption or "", edit.edit_text or "")


def _decoded(sample: Sample) -> list[Edit]:
    """The pending edits that have an image; ``finish`` fails those without one."""
    return [edit for edit in sample.pending if edit.image is not None]


def _finite(value: float) -> float | None:
    """The value to six significant digits; None if it is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
