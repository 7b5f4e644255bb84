"""FlexIT's figures for edits of ImageNet images: LPIPS, accuracy, and CSFID over all edits.

Source: Couairon et al., FlexIT, arXiv:2203.04705, and the evaluation in its repository. Images have
a side of 256 pixels. LPIPS uses AlexNet. An edit is correct if a classifier (DeiT-B, distilled, 384
pixels) gives its target class the highest probability among all classes that are a target of any
query. CSFID is over the edits that have an image.
Differs: an image that was edited at another size is scaled from there to 256.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.class_means import Features, Means, at_side
from pipeline.evaluation.measure import Seen
from pipeline.models.classifier import ImageClassifier
from pipeline.models.scorers import Scorers
from pipeline.scores.csfid import csfid


class FlexitJudge:
    """Computes those of FlexIT's figures whose networks are given; the others are left out."""

    def __init__(
        self,
        *,
        scorers: Scorers | None = None,
        classifier: ImageClassifier | None = None,
        classes: Sequence[int] = (),
        features: Features | None = None,
        real: Means | None = None,
    ) -> None:
        """
        Args:
            scorers: used for LPIPS, if it is configured.
            classifier: used for the accuracy.
            classes: the classes that it chooses from.
            features: computes features of images with a side of 256 pixels, for CSFID.
            real: the mean features of real images, by target class.
        """
        self.scorers, self.classifier, self.classes = scorers, classifier, classes
        self.features, self.real = features, real
        self.rows: dict[str, list[NDArray[np.floating]]] = defaultdict(list)

    def edits(self, seen: Sequence[Seen]) -> list[dict[str, float]]:
        """lpips_e2, accuracy_e2 and unedited_e2 (0 or 100), if their networks are given."""
        figures: list[dict[str, float]] = [{} for _ in seen]
        small = [at_side(item.after) for item in seen]
        if self.scorers is not None and self.scorers.lpips is not None:
            found = self.scorers.distances([at_side(item.before) for item in seen], small)
            for figure, value in zip(figures, found, strict=True):
                figure |= {"lpips_e2": 1e2 * value, "lpips_e3": 1e3 * value}
        if self.classifier is not None:
            large = [at_side(item.after, self.classifier.side) for item in seen]
            numbers = self.classifier.most_likely(large, self.classes)
            for figure, item, number in zip(figures, seen, numbers, strict=True):
                figure["accuracy_e2"] = 100.0 * (str(number) == item.facts["target_id"])
                figure["unedited_e2"] = 100.0 * (str(number) == item.facts["source_id"])
        if self.features is not None:
            for item, row in zip(seen, self.features(small), strict=True):
                self.rows[item.facts["target_id"]].append(row)
        return figures

    def whole(self) -> dict[str, float]:
        """csfid, if features are given and any edit has an image."""
        if self.real is None or not self.rows:
            return {}
        edited = {number: np.stack(rows) for number, rows in self.rows.items()}
        return {"csfid": csfid(edited, self.real)}
