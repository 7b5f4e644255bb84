"""The demo world as a benchmark: every edit's truth is known, and a small network reads images.

Agreement with the text is the share of edits whose image shows what was asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.demo.edits import Edit, sample_edit, true_mask
from pipeline.demo.readback import confirms_edit, confirms_rest, load_reader, read_images
from pipeline.demo.samples import edit_sample
from pipeline.evaluation.measure import Seen
from pipeline.evaluation.tasks import Task

KINDS = ("color", "shape")
SEED = 1
PUBLISHED: dict[str, dict[str, float]] = {}
COLUMNS = ("confirmed_e2", "rest_confirmed_e2", "psnr_db", "ssim_e2", "mask_iou")
NOTES: tuple[str, ...] = ()


def read_tasks(kinds: tuple[str, ...] = KINDS) -> Iterator[Task]:
    """Edits of scenes that the bundled model has never seen, without end.

    Args:
        kinds: of edits, which take turns; see ``pipeline.demo.edits.KINDS``.
    """
    for number in itertools.count():
        edit = sample_edit(SEED, "heldout", number, kinds=kinds)
        sample = edit_sample(edit, f"{number:05d}", image_format="png")
        yield Task(
            key=f"{number:05d}",
            image=sample["png"],
            suffix="png",
            caption=edit.caption,
            edit_text=edit.edit_text,
            group=edit.kind,
            truth=true_mask(edit),
            facts={"world_seed": SEED, "number": number},
        )


def edit_of(item: Seen) -> Edit:
    """The edit that a task asked for, with its truth."""
    seed, number = item.facts["world_seed"], item.facts["number"]
    return sample_edit(seed, "heldout", number, kinds=(item.group,))


class ReadBack:
    """The small network that reads what an image shows: is it what the edit asked for?"""

    def edits(self, seen: Sequence[Seen]) -> list[dict[str, float]]:
        """For each edit whether it, and what it leaves alone, is read back: 0 or 100."""
        edits = [edit_of(item) for item in seen]
        readings = read_images(load_reader(), np.stack([item.after for item in seen]))
        return [
            {
                "confirmed_e2": 100.0 * confirms_edit(reading, edit),
                "rest_confirmed_e2": 100.0 * confirms_rest(reading, edit),
            }
            for reading, edit in zip(readings, edits, strict=True)
        ]

    def whole(self) -> dict[str, float]:
        """Nothing beyond the means."""
        return {}
