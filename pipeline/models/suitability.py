"""What of a configuration a method and a family can do, said before anything is computed."""

from __future__ import annotations

from pipeline.models.probe import ModelInfo
from pipeline.words.config import Config

REGION_FAMILIES = ("stable-diffusion",)


def check_suits(info: ModelInfo, config: Config) -> None:
    """Refuses settings that would be computed wrongly, or not at all.

    A box is decoded as if it were a picture of its own. Stable Diffusion's UNet knows places from
    its convolutions alone; SDXL is told its picture's size and crop, and a transformer's positions
    are those of whole pictures. What a method cannot do whatever the family, the configuration
    itself refuses.

    Raises:
        ValueError: ``method.decode.region: box`` with another family.
    """
    method = config.method
    if method.decode.region == "box" and info.family not in REGION_FAMILIES:
        raise ValueError(
            f"method.decode.region='box': not for {info.family}; allowed are "
            f"{', '.join(REGION_FAMILIES)}, or region: full"
        )
