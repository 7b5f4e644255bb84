"""PIE-Bench (Ju et al., PnPInversion, arXiv:2310.01506): 700 images, ten types of edits.

DATA/mapping_file.json            key -> image_path, original_prompt, editing_prompt, mask, ...
DATA/annotation_images/<image_path>
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.tasks import BenchmarkError, Task, field_of, read_image, read_json

MAPPING = "mapping_file.json"
IMAGES = "annotation_images"
SIDE = 512  # side of every image and mask in pixels
TYPES = (
    *("random", "change object", "add object", "delete object", "change content"),
    *("change pose", "change color", "change material", "change background", "change style"),
)

# Stable Diffusion 1.4, 50 steps, from the table of the PnPInversion paper (FlowEdit's row: FLUX,
# from the paper of its masked variant). Figures have the names of COLUMNS.
_PAPERS = (
    *("structure_e3", "psnr_frame_db", "lpips_frame_e3", "ssim_frame_e2"),
    *("clip_whole", "clip_edited"),
)
PUBLISHED: dict[str, dict[str, float]] = {
    name: dict(zip(_PAPERS, figures, strict=True))
    for name, figures in {
        "DDIM + P2P": (69.43, 17.87, 208.80, 71.14, 25.01, 22.44),
        "Null-text + P2P": (13.44, 27.03, 60.67, 84.11, 24.75, 21.86),
        "PnPInversion + P2P": (11.65, 27.22, 54.55, 84.76, 25.02, 22.10),
        "DecFlowEdit, FLUX": (7.86, 30.54, 20.90, 94.5, 25.25, 22.15),
    }.items()
}
COLUMNS = (
    *("structure_e3", "psnr_frame_db", "lpips_frame_e3", "mse_frame_e4", "ssim_frame_e2"),
    *("clip_whole", "clip_edited", "psnr_db", "mask_iou"),
)

NOTES = (
    "Published: structure of DINO ViT-B/8, LPIPS of SqueezeNet, CLIP of ViT-L/14, at 512 pixels. "
    "Full frame: the annotated region is blacked out, and the mean is over all pixels.",
    "A PSNR is at most 100 dB here.",
)


def read_tasks(data: Path) -> Iterator[Task]:
    """The tasks, sorted by key.

    Raises:
        BenchmarkError: a file is missing, or an entry does not have the expected format.
    """
    mapping = read_json(data / MAPPING)
    if not isinstance(mapping, dict):
        raise BenchmarkError(f"{data / MAPPING}: must be an object that maps keys to entries")
    for key, entry in sorted(mapping.items()):
        where = f"{data / MAPPING}: entry {key!r}"
        number = str(field_of(entry, "editing_type_id", where))
        if not number.isdigit() or int(number) >= len(TYPES):
            raise BenchmarkError(f"{where}: editing_type_id {number!r} is not 0 to 9")
        image, suffix = read_image(data / IMAGES / field_of(entry, "image_path", where), where)
        try:
            truth = decode_mask(field_of(entry, "mask", where))
        except ValueError as error:
            raise BenchmarkError(f"{where}: {error}") from error
        yield Task(
            key=str(key),
            image=image,
            suffix=suffix,
            caption=without_brackets(field_of(entry, "original_prompt", where)),
            edit_text=without_brackets(field_of(entry, "editing_prompt", where)),
            group=f"{int(number)} {TYPES[int(number)]}",
            truth=truth,
            facts={"instruction": entry.get("editing_instruction", "")},
        )


def without_brackets(prompt: str) -> str:
    """A prompt without the square brackets that mark the changed words."""
    return prompt.replace("[", "").replace("]", "")


def decode_mask(lengths: Sequence[int], side: int = SIDE) -> NDArray[np.bool_]:
    """Decodes the annotated region from a run-length list.

    Args:
        lengths: start, length, start, length, ... over the flattened image, row by row. A run
            that reaches past the end is cut there, as in the benchmark's own decoder.
        side: of the image in pixels.

    Returns:
        (side, side) bool, True = edit. The outermost pixels are True in every mask: the benchmark
        sets them to compensate annotation errors at the border.

    Raises:
        ValueError: these are not pairs of integers, or a run starts outside the image.
    """
    runs = np.asarray(lengths)
    if runs.ndim != 1 or runs.size % 2 or (runs.size and runs.dtype.kind not in "iu"):
        raise ValueError("the mask must be a list of integers: start, length, start, length, ...")
    flat = np.zeros(side * side, np.bool_)
    for start, length in runs.reshape(-1, 2).tolist():
        if not 0 <= start < flat.size or length < 0:
            raise ValueError(f"the mask's run of {length} from {start} is outside the image")
        flat[start : start + length] = True
    mask = flat.reshape(side, side)
    mask[[0, -1], :] = True
    mask[:, [0, -1]] = True
    return mask
