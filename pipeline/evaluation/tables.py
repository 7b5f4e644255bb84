"""The published table's columns beside ours, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TITLES = {
    "structure_e3": "structure x1e3",
    "psnr_frame_db": "PSNR, full frame",
    "lpips_frame_e3": "LPIPS x1e3, background",
    "mse_frame_e4": "MSE x1e4, full frame",
    "ssim_frame_e2": "SSIM x1e2, full frame",
    "clip_whole": "CLIP whole",
    "clip_edited": "CLIP edited",
    "clip_image": "CLIP image-image",
    "psnr_db": "PSNR, true background",
    "ssim_e2": "SSIM x1e2, true background",
    "mse_e4": "MSE x1e4, true background",
    "mask_iou": "mask IoU",
    "lpips_e3": "LPIPS x1e3",
    "lpips_e2": "LPIPS x1e2",
    "csfid": "CSFID",
    "edit_rms": "change inside the mask, RMS",
    "confirmed_e2": "edits confirmed, %",
    "rest_confirmed_e2": "rest confirmed, %",
}


def table(
    columns: Sequence[str],
    published: Mapping[str, Mapping[str, float]],
    ours: Mapping[str, Mapping[str, float]],
) -> str:
    """Rows of published methods, then ours; a dash where a figure is not there.

    Args:
        columns: names of figures, in their order.
        published: figures by the method's name.
        ours: likewise.
    """
    lines = [
        f"| method | {' | '.join(TITLES.get(name, name) for name in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for names, said in ((published, " (published)"), (ours, "")):
        for name, figures in names.items():
            values = [f"{figures[col]:.2f}" if col in figures else "–" for col in columns]
            lines.append(f"| {name}{said} | {' | '.join(values)} |")
    return "\n".join(lines)
