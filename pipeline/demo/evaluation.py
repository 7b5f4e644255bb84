"""The demo model measured: reconstruction, generation, edits against their truth, trade-offs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config.method import Method
from pipeline.demo.captions import caption
from pipeline.demo.editor import (
    Outcome,
    generate,
    masked_part,
    outcomes,
    with_full_masks,
    with_grown_masks,
)
from pipeline.demo.edits import FAINT, VISIBLE, Edit, mask_on_grid, sample_edit, true_mask
from pipeline.demo.measures import mask_iou, mask_precision, mask_recall, psnr
from pipeline.demo.readback import (
    SceneReader,
    confirms_edit,
    confirms_rest,
    read_images,
    reading_of,
)
from pipeline.demo.world import Scene, paint, sample_scene
from pipeline.models.loading import LatentDiffusion

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# By name: how the encode stage is run, and whether the mask is used.
METHODS = {
    "DiffEdit": ("ddim", True),
    "without mask": ("ddim", False),
    "without encoding": ("noise", True),
    "SDEdit": ("noise", False),
}
SDEDIT_STRENGTH = 0.5
_BATCH = 32
_LOCAL_KINDS = ("color", "shape", "object")


def measure_reconstruction(
    model: LatentDiffusion, reader: SceneReader, count: int, seed: int
) -> dict[str, float]:
    """The VAE alone, and the reader on real scenes that neither has seen."""
    scenes = [sample_scene(seed, "heldout", number) for number in range(count)]
    images = [paint(scene) for scene in scenes]
    decoded = _through_vae(model, images)
    pairs = zip(images, decoded, strict=True)
    return {
        "vae_psnr_db": float(np.mean([psnr(one, other) for one, other in pairs])),
        "reader_accuracy": _agreement(reader, images, scenes),
        "reader_accuracy_through_vae": _agreement(reader, decoded, scenes),
    }


def _through_vae(model: LatentDiffusion, images: Images) -> np.ndarray:
    with torch.inference_mode():
        return model.image_coder.decode(model.image_coder.encode(list(images)))


def measure_generation(
    model: LatentDiffusion, reader: SceneReader, count: int, seed: int
) -> dict[str, float]:
    """Images made from captions of held-out scenes: guidance 4, 50 steps."""
    figures = {}
    for objects, name in ((1, "generated_one_object"), (2, "generated_two_objects")):
        drawn = (sample_scene(seed, "heldout", number) for number in range(20 * count))
        scenes = [scene for scene in drawn if len(scene.objects) == objects][: count // 2]
        texts = [caption(scene, number % 4) for number, scene in enumerate(scenes)]
        images = generate(model, texts, guidance_scale=4.0, steps=50, seed=seed)
        figures[name] = _agreement(reader, images, scenes)
    return figures


def _agreement(reader: SceneReader, images: Images, scenes: list[Scene]) -> float:
    """The share of images whose whole reading is that of the scene."""
    readings = read_images(reader, images)
    return float(np.mean([a == reading_of(b) for a, b in zip(readings, scenes, strict=True)]))


def measure_edits(
    model: LatentDiffusion,
    reader: SceneReader,
    method: Method,
    *,
    count: int,
    seed: int,
    after_batch: Callable[[list[Edit], list[Outcome]], None],
) -> list[dict[str, Any]]:
    """DiffEdit on held-out edits of every kind, beside SDEdit: one row of figures an edit.

    Figures of masks are of what DiffEdit finds, before `method.mask.dilate` lets it grow for the
    edit: grown masks hold what does not change on purpose.
    """
    found_by = method.model_copy(update={"mask": method.mask.model_copy(update={"dilate": 0})})
    rows: list[dict[str, Any]] = []
    for first in range(0, count, _BATCH):
        numbers = range(first, min(first + _BATCH, count))
        edits = [sample_edit(seed, "heldout", number) for number in numbers]
        found = masked_part(model, edits, found_by, seed=first)
        part = with_grown_masks(found, method.mask.dilate)
        done = outcomes(model, part, method, seed=first)
        sdedit = method.model_copy(update={"encode": "noise", "encode_ratio": SDEDIT_STRENGTH})
        others = outcomes(model, with_full_masks(part), sdedit, seed=first)
        masks = [row.mask > 0 for row in found.edits if row.mask is not None]
        rows += _rows_of_batch(model, reader, edits, masks, done, others)
        after_batch(edits, done)
    return rows


def _rows_of_batch(
    model: LatentDiffusion,
    reader: SceneReader,
    edits: list[Edit],
    masks: list[NDArray[np.bool_]],
    done: list[Outcome],
    others: list[Outcome],
) -> list[dict[str, Any]]:
    """One row of figures for each edit of a batch; `others` are SDEdit's."""
    images = [paint(edit.source) for edit in edits]
    decoded, readings = _through_vae(model, images), read_images(reader, _images(done))
    perfect = perfect_edits(model, edits)
    rows = []
    for number, (edit, mask, outcome, reading) in enumerate(
        zip(edits, masks, done, readings, strict=True)
    ):
        cells = mask_on_grid(true_mask(edit))
        shown = {
            "": outcome.image,
            "vae_": decoded[number],
            "perfect_": perfect[number],
            "sdedit_": others[number].image,
        }
        rows.append(
            {
                "kind": edit.kind,
                "iou": mask_iou(mask, cells),
                "recall": mask_recall(mask, cells),
                "precision": mask_precision(mask, cells),
                "confirmed": confirms_edit(reading, edit),
                "rest": confirms_rest(reading, edit),
                "empty": not outcome.edited,
                **(_backgrounds(edit, shown) if outcome.edited else {}),
            }
        )
    return rows


def _backgrounds(edit: Edit, shown: dict[str, NDArray[np.uint8]]) -> dict[str, float]:
    """PSNR of each image outside of all that truly changes, and outside of what visibly does."""
    before = paint(edit.source)
    return {
        f"{name}psnr{also}": psnr(image, before, ~true_mask(edit, differs=differs))
        for also, differs in (("", FAINT), ("_with_shadows", VISIBLE))
        for name, image in shown.items()
    }


def perfect_edits(model: LatentDiffusion, edits: list[Edit]) -> NDArray[np.uint8]:
    """The edit's own latents inside the true cells, the input's outside, decoded: (N, H, W, 3).

    What an editor loses that replaces just the true cells: the decoder reads a cell's neighbours,
    and beyond the mask lie cells that hold a little of the old object, and the rim of its shadow.
    """
    cells_N1hw = torch.tensor(np.stack([mask_on_grid(true_mask(edit)) for edit in edits]))[:, None]
    with torch.inference_mode():
        before = model.image_coder.encode([paint(edit.source) for edit in edits])
        after = model.image_coder.encode([paint(edit.target) for edit in edits])
        return model.image_coder.decode(torch.where(cells_N1hw, after, before))


def _images(done: list[Outcome]) -> NDArray[np.uint8]:
    return np.stack([outcome.image for outcome in done])


def edit_figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The means of `measure_edits` that are asked for, over the kinds that they concern."""

    def mean(name: str, *kinds: str) -> float:
        values = [row.get(name, np.nan) for row in rows if not kinds or row["kind"] in kinds]
        return float(np.nanmean(values)) if values else float("nan")

    local = _LOCAL_KINDS
    figures = {
        "color_mask_iou": mean("iou", "color"),
        "shape_mask_recall": mean("recall", "shape"),
        "shape_mask_precision": mean("precision", "shape"),
        "rest_confirmed": mean("rest"),
        "background_psnr_below_vae_db": mean("vae_psnr", *local) - mean("psnr", *local),
        "background_with_faint_shadows_psnr_below_vae_db": (
            mean("vae_psnr_with_shadows", *local) - mean("psnr_with_shadows", *local)
        ),
        "background_psnr_perfect_edit_below_vae_db": (
            mean("vae_psnr", *local) - mean("perfect_psnr", *local)
        ),
        "background_psnr_db": mean("psnr", *local),
        "background_psnr_vae_db": mean("vae_psnr", *local),
        "background_psnr_sdedit_db": mean("sdedit_psnr", *local),
        "empty_masks": mean("empty"),
    }
    for kind in sorted({row["kind"] for row in rows}):
        figures[f"{kind}_confirmed"] = mean("confirmed", kind)
        figures[f"{kind}_rest_confirmed"] = mean("rest", kind)
        figures.setdefault(f"{kind}_mask_iou", mean("iou", kind))
    return figures


def measure_sweep(
    model: LatentDiffusion, reader: SceneReader, method: Method, *, count: int, seed: int
) -> list[dict[str, Any]]:
    """The trade-off of edits confirmed against background kept, by ratio, for each method."""
    kinds = ("color", "shape")
    edits = [sample_edit(seed, "heldout", number, kinds=kinds) for number in range(count)]
    part = masked_part(model, edits, method, seed=0)
    everywhere = with_full_masks(part)
    rows = []
    for name, (encode, masked) in METHODS.items():
        for ratio in RATIOS:
            used = method.model_copy(update={"encode": encode, "encode_ratio": ratio})
            done = outcomes(model, part if masked else everywhere, used, seed=0)
            readings = list(zip(read_images(reader, _images(done)), edits, strict=True))
            kept = [
                psnr(outcome.image, paint(edit.source), ~true_mask(edit, differs=FAINT))
                for outcome, edit in zip(done, edits, strict=True)
                if outcome.edited
            ]
            rows.append(
                {
                    "method": name,
                    "ratio": ratio,
                    "confirmed": float(np.mean([confirms_edit(*pair) for pair in readings])),
                    "rest": float(np.mean([confirms_rest(*pair) for pair in readings])),
                    "background_psnr_db": float(np.mean(kept)),
                }
            )
    return rows
