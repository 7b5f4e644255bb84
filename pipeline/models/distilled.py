"""Recognises models that were distilled to a few steps, and settings that a model was not made for.

Such a model gives images at any settings, only worse ones, so these are warnings and not errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.method import Method

FAR = 1.5  # from the native size: SD 1.5 repeats objects at 768, SD 2.1 blurs at 512
SAID_BY_SCHEDULER = ("LCMScheduler", "TCDScheduler")
TRAILING = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")


@dataclass(frozen=True)
class Distilled:
    """A kind of distilled model.

    Attributes:
        reason: how it was recognised.
        kind: of distillation.
        max_steps: the most steps that it is used with.
        max_guidance: the largest guidance scale; 1 is no guidance.
    """

    reason: str
    kind: str
    max_steps: int
    max_guidance: float


# Word in a model's name -> most steps and largest guidance scale of the published models:
# SD-Turbo, SDXL-Turbo (arXiv:2311.17042), SD3.5-Large-Turbo; SDXL-Lightning (arXiv:2402.13929) and
# models merged with it, whose cards allow a guidance of 2; Hyper-SD (arXiv:2404.13686); LCM
# (arXiv:2310.04378), whose guidance is distilled too; DMD2 (arXiv:2405.14867).
KINDS = {
    "turbo": (8, 2.0),
    "lightning": (8, 2.0),
    "hyper": (8, 2.0),
    "lcm": (8, 2.0),
    "dmd": (4, 1.0),
}
NAMES = {
    "turbo": r"turbo",
    "lightning": r"lightning",
    "hyper": r"hyper[-_ ]?sd",
    "lcm": r"(?<![a-z])lcm(?![a-z])",
    "dmd": r"(?<![a-z])dmd2?(?![a-z])",
}


def distilled_kind(
    names: list[str],
    scheduler: Mapping[str, Any],
    of_family: Mapping[str, tuple[int, float]] | None = None,
) -> Distilled | None:
    """Recognises a distilled model from its names and its scheduler's config; None if it is none.

    Args:
        names: the path or hub id, and the names that the configs keep.
        scheduler: the scheduler's config. Trailing timesteps alone do not tell: models whose noise
            ends at zero signal have them too.
        of_family: further words, see ``Family.few_steps``.
    """
    for name in names:
        last = re.sub(r"[\\/]+$", "", name).lower()
        last = re.split(r"[\\/]", last)[-1]
        for kind, pattern in (NAMES | {word: word for word in of_family or {}}).items():
            if re.search(pattern, last):
                most = (KINDS | dict(of_family or {}))[kind]
                return Distilled(f"it is called {name}", kind, *most)
    scheduler_class = str(scheduler.get("_class_name", ""))
    if scheduler_class in SAID_BY_SCHEDULER:
        return Distilled(f"its scheduler is {scheduler_class}", "lcm", *KINDS["lcm"])
    trailing = scheduler.get("timestep_spacing") == "trailing"
    zero_snr = scheduler.get("rescale_betas_zero_snr") is True
    velocity = scheduler.get("prediction_type", "epsilon") == "v_prediction"
    if scheduler_class in TRAILING and trailing and not zero_snr and not velocity:
        reason = f"its scheduler is {scheduler_class} with trailing timesteps"
        return Distilled(reason, "turbo", *KINDS["turbo"])
    return None


def about_distillation(distilled: Distilled | None, method: Method) -> list[str]:
    """A line if the settings are not those that a distilled model was made for."""
    if distilled is None:
        return []
    asked, wanted = [], []
    if method.steps > distilled.max_steps:
        asked.append(f"method.steps={method.steps}")
        wanted.append(f"at most {distilled.max_steps} steps")
    if method.guidance_scale > distilled.max_guidance:
        asked.append(f"method.guidance_scale={method.guidance_scale:g}")
        most = distilled.max_guidance
        wanted.append("no guidance (1)" if most <= 1 else f"little or no guidance (1 to {most:g})")
    if method.encode == "ddim":
        asked.append("method.encode=ddim")
        wanted.append("no inversion (method.name: sdedit)")
    if not asked:
        return []
    return [
        f"a distilled model ({distilled.kind}: {distilled.reason}), made for {', '.join(wanted)}; "
        f"{', '.join(asked)} gives worse images"
    ]


def about_size(setting: str, side: float, native_size: int) -> list[str]:
    """A line if an image's side is far from that of the model's training images, in pixels.

    Args:
        setting: the key and its value, for the line.
        side: of a square of the image's area.
        native_size: of the training images.
    """
    ratio = side / native_size
    if 1 / FAR < ratio < FAR:
        return []
    worse = "repeats objects" if ratio > 1 else "loses detail"
    return [f"{setting}: the model was made for {native_size} pixels and {worse} at {side:.0f}"]
