"""The published table's columns beside ours, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {
    "structure_e3": "structure x1e3",
    "psnr_frame_db": "PSNR, full frame",
    "lpips_frame_e3": "LPIPS x1e3, full frame",
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
    "accuracy_e2": "accuracy, %",
    "unedited_e2": "still the source's class, %",
    "csfid": "CSFID",
    "edit_rms": "change inside the mask, RMS",
    "confirmed_e2": "edits confirmed, %",
    "rest_confirmed_e2": "rest confirmed, %",
    "cells_iou": "mask IoU, latent cells",
    "cells_recall": "mask recall",
    "cells_precision": "mask precision",
    "background_db": "background, dB",
    "background_vae_db": "the VAE's background, dB",
    "background_perfect_db": "a perfect edit's background, dB",
    "vae_db": "VAE, dB",
    "reader_e2": "scenes read right, %",
    "generated_one_e2": "generated, one object, %",
    "generated_two_e2": "generated, two objects, %",
}

# What gives a figure that is not always there.
GIVEN_BY = {
    **dict.fromkeys(("clip_whole", "clip_edited", "clip_image"), "scores.clip"),
    **dict.fromkeys(("lpips_frame_e3", "lpips_e3", "lpips_e2"), "scores.lpips"),
    "structure_e3": "scores.dino",
    "csfid": "--inception and --real",
    "accuracy_e2": "--classifier",
    "unedited_e2": "--classifier",
}


def report_text(
    columns: Sequence[str],
    published: Mapping[str, Mapping[str, float]],
    report: Mapping[str, Any],
    notes: Sequence[str],
) -> str:
    """The table of an evaluation, what it leaves out, and how the curves compare.

    Args:
        columns: of the benchmark.
        published: by the method's name.
        report: what ``evaluation.json`` holds.
        notes: of the benchmark, on how its figures are to be read.
    """
    ours = {name: found["figures"] for name, found in report["ours"].items()}
    lines = [table(columns, published, ours), ""]
    known = {column for figures in ours.values() for column in figures}
    missing = [column for column in columns if column not in known]
    if missing:
        by = [f"{name} ({GIVEN_BY[name]})" if name in GIVEN_BY else name for name in missing]
        lines.append(f"Not measured: {', '.join(by)}.")
    for name, found in report["ours"].items():
        counts = ", ".join(f"{number} {status}" for status, number in found["counts"].items())
        lines.append(f"{name}: {counts}.")
    lines.append("Unchanged edits count with their input as the result; failed ones do not count.")
    lines += [*notes, *(_compared(item) for item in report.get("compared", ()))]
    return "\n".join(lines)


def _compared(item: Mapping[str, Any]) -> str:
    """One method beside another, in words."""
    pair = f"{item['better']} and {item['other']}"
    if item["overlap"] is None:
        return f"{pair} do not overlap in distance."
    where = "wherever they overlap" if item["above_everywhere"] else "not everywhere"
    low, high = item["overlap"]
    sure = item.get("bootstrap")
    intervals = sure["intervals"] if sure else [None] * len(item["compared_at"])
    at = [
        f"{_signed(difference, interval)} at {x:.2f}"
        for x, difference, interval in zip(
            item["compared_at"], item["difference"], intervals, strict=True
        )
    ]
    mean = _signed(item["mean_difference"], sure["mean_interval"] if sure else None)
    text = (
        f"{item['better']} lies above {item['other']} {where} ({item['distance']} from {low:.2f} "
        f"to {high:.2f}): {item['agreement']} {', '.join(at)}; {mean} on average."
    )
    if sure:
        text += (
            f" In brackets {sure['level']:.0%} of {sure['resamples']} resamples of "
            f"{sure['edits']} edits; the curves overlap in {sure['overlapping']:.1%} of them"
        )
        share = sure["above_everywhere"]
        text += "." if share is None else f", and in {share:.1%} of those it is above everywhere."
    return text


def _signed(value: float, interval: Sequence[float] | None) -> str:
    found = f"{value:+.2f}"
    return found if interval is None else f"{found} [{interval[0]:+.2f}, {interval[1]:+.2f}]"


def table(
    columns: Sequence[str],
    published: Mapping[str, Mapping[str, float]],
    ours: Mapping[str, Mapping[str, float]],
    *,
    first: str = "method",
) -> str:
    """Rows of published methods, then ours; a dash where a figure is not there.

    Args:
        columns: names of figures, in their order.
        published: figures by the method's name.
        ours: likewise.
        first: the title of the first column.
    """
    lines = [
        f"| {first} | {' | '.join(TITLES.get(name, name) for name in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for names, said in ((published, " (published)"), (ours, "")):
        for name, figures in names.items():
            values = [f"{figures[col]:.2f}" if col in figures else "–" for col in columns]
            lines.append(f"| {name}{said} | {' | '.join(values)} |")
    return "\n".join(lines)
