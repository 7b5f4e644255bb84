"""How much of a picture decoding computes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config.sections import Section


class Decode(Section):
    """DiffEdit, step 3, on the whole latent grid or around each mask (beyond the paper)."""

    region: Literal["full", "box"] = "full"  # box: the mask's square with context
    context: int = Field(4, ge=0)  # latent cells around the mask that the network sees, at least
    multiple: int = Field(8, ge=1)  # of a box's side, in cells: few shapes, and UNets halve thrice
