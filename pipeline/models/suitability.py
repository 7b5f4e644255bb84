"""What of a configuration a method and a family can do, said before anything is computed."""

from __future__ import annotations

from pipeline.models.probe import ModelInfo
from pipeline.words.config import Config

REGION_FAMILIES = ("stable-diffusion",)


def check_suits(info: ModelInfo, config: Config) -> None:
    """Refuses settings that would be computed wrongly, or not at all.

    A box is decoded as if it were a picture of its own. Stable Diffusion's UNet knows places from
    its convolutions alone; SDXL is told its picture's size and crop, and a transformer's positions
    are those of whole pictures. Imagic decodes from noise of the whole picture, and fits the
    network, whose compiled form knows nothing of gradients.

    Raises:
        ValueError: ``method.decode.region: box`` with another family or with imagic, or a compiled
            network with imagic.
    """
    method = config.method
    if method.decode.region == "box" and info.family not in REGION_FAMILIES:
        raise ValueError(
            f"method.decode.region='box': not for {info.family}; allowed are "
            f"{', '.join(REGION_FAMILIES)}, or region: full"
        )
    if method.name == "imagic" and method.decode.region == "box":
        raise ValueError("method.decode.region='box': not for imagic, which allows region: full")
    if method.name == "imagic" and config.model.compile != "off":
        raise ValueError(
            f"model.compile={config.model.compile!r}: not for imagic, which allows compile: off"
        )
