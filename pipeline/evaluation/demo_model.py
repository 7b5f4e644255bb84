"""The figures of the bundled model's card: its edits against their truth, and the model alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.method import Method
from pipeline.demo.captions import PHRASINGS, caption
from pipeline.demo.editor import generate, masked_part, perfect_edits, through_vae
from pipeline.demo.edits import FAINT, mask_on_grid, true_mask
from pipeline.demo.measures import mask_iou, mask_precision, mask_recall, psnr
from pipeline.demo.readback import load_reader, read_images, reading_of
from pipeline.demo.world import Scene, paint, sample_scene
from pipeline.evaluation.demo_world import SEED, edit_of
from pipeline.evaluation.measure import Seen
from pipeline.evaluation.tables import table
from pipeline.models.loading import LatentDiffusion

# Background figures are of what the model decodes, not of what the composite pastes back.
OVERRIDES = ("method.composite.enabled=false",)
LOCAL_KINDS = ("color", "shape", "object")  # edits that leave the background alone
OF_EDITS = (
    *("confirmed_e2", "rest_confirmed_e2", "cells_iou", "cells_recall", "cells_precision"),
    *("background_db", "background_vae_db", "background_perfect_db"),
)
OF_MODEL = ("vae_db", "reader_e2", "generated_one_e2", "generated_two_e2")


class ModelJudge:
    """Compares edits with their truth and with what the model could reach at best.

    Figures of masks are of those that the model finds on its latent grid, before
    ``method.mask.dilate`` lets them grow for the edit.
    """

    def __init__(self, model: LatentDiffusion, method: Method, num_scenes: int) -> None:
        """
        Args:
            model: that made the edits.
            method: of the run.
            num_scenes: for the figures of the model alone.
        """
        self.model, self.num_scenes = model, num_scenes
        self.found_by = method.model_copy(
            update={"mask": method.mask.model_copy(update={"dilate": 0})}
        )

    def edits(self, seen: Sequence[Seen]) -> list[dict[str, float]]:
        """Mask figures of each edit; background PSNR of changed images that should keep it."""
        edits = [edit_of(item) for item in seen]
        found = masked_part(self.model, edits, self.found_by, seed=SEED)
        decoded = through_vae(self.model, [item.before for item in seen])
        perfect = perfect_edits(self.model, edits)
        figures = []
        for number, (item, edit, row) in enumerate(zip(seen, edits, found.edits, strict=True)):
            assert row.mask is not None, "the mask stage sets it"
            mask, cells = row.mask > 0, mask_on_grid(true_mask(edit))
            of_edit = {
                "cells_iou": mask_iou(mask, cells),
                "cells_recall": mask_recall(mask, cells),
                "cells_precision": mask_precision(mask, cells),
            }
            if edit.kind in LOCAL_KINDS and not item.is_unchanged:
                kept = ~true_mask(edit, differs=FAINT)
                of_edit |= {
                    "background_db": psnr(item.after, item.before, kept),
                    "background_vae_db": psnr(decoded[number], item.before, kept),
                    "background_perfect_db": psnr(perfect[number], item.before, kept),
                }
            figures.append(of_edit)
        return figures

    def whole(self) -> dict[str, float]:
        """The VAE and the reader on held-out scenes; images generated from captions alone."""
        scenes = list(islice(_heldout(), self.num_scenes))
        images = [paint(scene) for scene in scenes]
        decoded = through_vae(self.model, images)
        return {
            "vae_db": float(np.mean([psnr(*pair) for pair in zip(images, decoded, strict=True)])),
            "reader_e2": _read_right(images, scenes),
            "generated_one_e2": self._generated(1),
            "generated_two_e2": self._generated(2),
        }

    def _generated(self, num_objects: int) -> float:
        """Percent of images that show their caption: guidance 4, 50 steps."""
        drawn = (scene for scene in _heldout() if len(scene.objects) == num_objects)
        scenes = list(islice(drawn, max(1, self.num_scenes // 2)))
        texts = [caption(scene, n % len(PHRASINGS)) for n, scene in enumerate(scenes)]
        images = generate(self.model, texts, guidance_scale=4.0, steps=50, seed=SEED)
        return _read_right(images, scenes)


def card_text(found: Mapping[str, Any]) -> str:
    """The tables of the model card as Markdown.

    Args:
        found: what ``summary`` says of a run that a ``ModelJudge`` saw.
    """
    whole = found["figures"]
    rows = {"all": whole} | {kind: of["figures"] for kind, of in found["groups"].items()}
    statuses = ", ".join(f"{number} {status}" for status, number in found["counts"].items())
    return "\n".join(
        [
            table(OF_EDITS, {}, rows, first="edits"),
            "",
            f"Held-out edits: {statuses}.",
            "",
            table(OF_MODEL, {}, {"alone": whole}, first="model"),
        ]
    )


def _heldout() -> Iterator[Scene]:
    return (sample_scene(SEED, "heldout", number) for number in count())


def _read_right(
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], scenes: list[Scene]
) -> float:
    """Percent of images whose whole reading is that of the scene."""
    readings = read_images(load_reader(), images)
    right = [reading == reading_of(scene) for reading, scene in zip(readings, scenes, strict=True)]
    return 100.0 * float(np.mean(right))
