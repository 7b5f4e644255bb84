"""What of a configuration a method and a family can do, said before anything is computed."""

from __future__ import annotations

from pipeline.config.config import Config
from pipeline.config.method import Reuse
from pipeline.models.model_files import read_json
from pipeline.models.probe import ModelInfo

REGION_FAMILIES = ("stable-diffusion",)
REUSE_FAMILIES = ("stable-diffusion", "stable-diffusion-xl")  # those of a UNet
REUSE_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D")


def check_suits(info: ModelInfo, config: Config) -> None:
    """Refuses settings that would be computed wrongly, or not at all.

    A box is decoded as if it were an image of its own. Stable Diffusion's UNet knows places from
    its convolutions alone; SDXL is told its image's size and crop, and a transformer's positions
    are those of whole images. What a method cannot do whatever the family, the configuration
    itself refuses.

    Raises:
        ValueError: ``method.decode.region: box`` with another family; ``method.reuse`` with a
            family that has no UNet, or with more layers than the UNet's outermost blocks have.
    """
    method = config.method
    if method.decode.region == "box" and info.family not in REGION_FAMILIES:
        raise ValueError(
            f"method.decode.region='box': not for {info.family}; allowed are "
            f"{', '.join(REGION_FAMILIES)}, or region: full"
        )
    if method.reuse.interval > 1:
        _check_reuse(info, method.reuse)


def _check_reuse(info: ModelInfo, reuse: Reuse) -> None:
    if info.family not in REUSE_FAMILIES:
        raise ValueError(
            f"method.reuse.interval={reuse.interval}: not for {info.family}; allowed are "
            f"{', '.join(REUSE_FAMILIES)}, or interval: 1"
        )
    network = read_json(info.folder / info.components[0] / "config.json")
    outermost = (network["down_block_types"][0], network["up_block_types"][-1])
    for block in outermost:
        if block not in REUSE_BLOCKS:
            raise ValueError(
                f"method.reuse.interval={reuse.interval}: not for a UNet with {block}; allowed "
                f"are {', '.join(REUSE_BLOCKS)}"
            )
    per_block = network.get("layers_per_block", 2)
    most = 1 + int(per_block if isinstance(per_block, int) else per_block[0])
    if reuse.layers > most:
        raise ValueError(f"method.reuse.layers={reuse.layers}: this model allows 1 to {most}")
