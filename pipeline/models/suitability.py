"""Checks at start-up that a model supports the configured method, and was made for its settings."""

from __future__ import annotations

import math

from pipeline.config.config import Config
from pipeline.config.method import Reuse
from pipeline.models.distilled import about_distillation, about_size
from pipeline.models.families import family_named, names_where
from pipeline.models.model_files import read_json
from pipeline.models.model_info import ModelInfo

REUSE_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D")


def check_suits(info: ModelInfo, config: Config) -> None:
    """Refuses settings that this family would compute wrongly, or not at all.

    A box is decoded as if it were a whole image. That suits Stable Diffusion's UNet, which knows
    positions only from its convolutions. SDXL takes image size and crop as inputs, and a
    transformer's positions are those of whole images. The configuration itself refuses what a
    method supports with no family.

    Raises:
        ValueError: ``method.decode.region: box`` with another family; ``method.reuse`` with a
            family that has no UNet, or with more layers than the UNet's outermost blocks have; a
            negative text where it does nothing or needs another encoding; Imagic with texts of
            unequal length; inversion of a distilled model that cannot be inverted.
    """
    method = config.method
    family = family_named(info.family)
    if method.decode.region == "box" and not family.decodes_boxes:
        raise ValueError(
            f"method.decode.region='box': not supported for {info.family}; allowed are "
            f"{names_where('decodes_boxes')}, or region: full"
        )
    if method.name == "imagic" and not family.fits_texts:
        raise ValueError(
            f"method.name='imagic': not supported for {info.family}, whose texts differ in length; "
            f"allowed are {names_where('fits_texts')}"
        )
    if method.negative_text and family.guidance_is_embedded:
        raise ValueError(
            f"method.negative_text={method.negative_text!r}: does nothing with {info.family}, "
            "whose guidance is an input of the network; allowed is an empty one"
        )
    if method.negative_text and family.instructs_texts:
        raise ValueError(
            f"method.negative_text={method.negative_text!r}: not supported for {info.family}, "
            "which reads texts after an instruction and negative ones without; allowed is an empty "
            "one"
        )
    if method.encode == "ddim" and info.distilled and not family.inverts_distilled:
        raise ValueError(
            f"method.encode='ddim': {config.model.path} is distilled to few steps "
            f"({info.distilled.kind}: {info.distilled.reason}) and cannot be inverted; allowed is "
            "method.name: sdedit"
        )
    if method.reuse.interval > 1:
        _check_reuse(info, method.reuse)


def suitability_warnings(info: ModelInfo, config: Config) -> list[str]:
    """A line for each setting that this model was not made for, though it computes with it."""
    lines = about_distillation(info.distilled, config.method)
    sizes = info.sizes_for(config.model)
    if isinstance(sizes.buckets, str):
        lines += about_size(f"model.size={sizes.side}", sizes.side, info.native_size)
    else:
        for size in sizes.buckets:
            side = math.sqrt(math.prod(size))
            lines += about_size(f"model.buckets: {list(size)}", side, info.native_size)
    return [f"model.path={config.model.path!r}: {line}" for line in lines]


def _check_reuse(info: ModelInfo, reuse: Reuse) -> None:
    if not family_named(info.family).reuses_features:
        raise ValueError(
            f"method.reuse.interval={reuse.interval}: not supported for {info.family}; allowed are "
            f"{names_where('reuses_features')}, or interval: 1"
        )
    network = read_json(info.folder / info.components[0] / "config.json")
    outermost = (network["down_block_types"][0], network["up_block_types"][-1])
    for block in outermost:
        if block not in REUSE_BLOCKS:
            raise ValueError(
                f"method.reuse.interval={reuse.interval}: not supported for a UNet with {block}; "
                f"allowed are {', '.join(REUSE_BLOCKS)}"
            )
    per_block = network.get("layers_per_block", 2)
    most = 1 + int(per_block if isinstance(per_block, int) else per_block[0])
    if reuse.layers > most:
        raise ValueError(f"method.reuse.layers={reuse.layers}: this model allows 1 to {most}")
