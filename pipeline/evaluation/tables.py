"""Tables of published figures and ours, as Markdown."""

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

# The configuration section or option that a figure needs, for figures that may be missing.
NEEDS = {
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
    """The table of an evaluation, the figures that are missing, and the comparison of curves.

    Args:
        columns: of the benchmark.
        published: published figures, by method name.
        report: the contents of ``evaluation.json``.
        notes: the benchmark's notes on how to read its figures.
    """
    ours = {name: found["figures"] for name, found in report["ours"].items()}
    lines = [table(columns, published, ours), ""]
    known = {column for figures in ours.values() for column in figures}
    missing = [column for column in columns if column not in known]
    if missing:
        items = [f"{name} ({NEEDS[name]})" if name in NEEDS else name for name in missing]
        lines.append(f"Not measured: {', '.join(items)}.")
    for name, found in report["ours"].items():
        counts = ", ".join(f"{number} {status}" for status, number in found["counts"].items())
        lines.append(f"{name}: {counts}.")
    lines.append("The result of an unchanged edit is its input; failed edits do not count.")
    lines += [*notes, *(_compared(item) for item in report.get("compared", ()))]
    return "\n".join(lines)


def _compared(item: Mapping[str, Any]) -> str:
    """The comparison of two methods, in words."""
    pair = f"{item['better']} and {item['other']}"
    if item["overlap"] is None:
        return f"{pair} do not overlap in distance."
    where = "wherever they overlap" if item["above_everywhere"] else "not everywhere"
    low, high = item["overlap"]
    bootstrap = item.get("bootstrap")
    intervals = bootstrap["intervals"] if bootstrap else [None] * len(item["compared_at"])
    differences = [
        f"{_signed(difference, interval)} at {x:.2f}"
        for x, difference, interval in zip(
            item["compared_at"], item["difference"], intervals, strict=True
        )
    ]
    mean = _signed(item["mean_difference"], bootstrap["mean_interval"] if bootstrap else None)
    text = (
        f"{item['better']} lies above {item['other']} {where} ({item['distance']} from {low:.2f} "
        f"to {high:.2f}): {item['agreement']} {', '.join(differences)}; {mean} on average."
    )
    if bootstrap:
        text += (
            f" In brackets {bootstrap['level']:.0%} intervals of {bootstrap['resamples']} "
            f"resamples of {bootstrap['edits']} edits; the curves overlap in "
            f"{bootstrap['overlapping']:.1%} of them"
        )
        share = bootstrap["above_everywhere"]
        text += "." if share is None else f", and in {share:.1%} of those it is above everywhere."
    return text


def _signed(value: float, interval: Sequence[float] | None) -> str:
    text = f"{value:+.2f}"
    return text if interval is None else f"{text} [{interval[0]:+.2f}, {interval[1]:+.2f}]"


def table(
    columns: Sequence[str],
    published: Mapping[str, Mapping[str, float]],
    ours: Mapping[str, Mapping[str, float]],
    *,
    first: str = "method",
) -> str:
    """Rows of published methods, then ours; a dash for a missing figure.

    Args:
        columns: names of figures, in order.
        published: figures by method name.
        ours: same.
        first: the title of the first column.
    """
    lines = [
        f"| {first} | {' | '.join(TITLES.get(name, name) for name in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for methods, suffix in ((published, " (published)"), (ours, "")):
        for name, figures in methods.items():
            values = [f"{figures[col]:.2f}" if col in figures else "–" for col in columns]
            lines.append(f"| {name}{suffix} | {' | '.join(values)} |")
    return "\n".join(lines)
