"""An entry of ``model.lora`` in the configuration."""

from __future__ import annotations

from pydantic import Field

from pipeline.config.sections import Section


class Lora(Section):
    """A LoRA that is fused into the weights when they are loaded."""

    path: str = Field(
        description="A safetensors file, a folder or a hub id with one, in diffusers' or kohya's "
        "format."
    )
    file: str | None = Field(
        None, description="Which safetensors file of the folder or hub id; null: the only one."
    )
    weight: float = Field(1.0, description="Factor of the change; 1 is the file's own.")
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of a hub id; null: the default branch. Of a local file: "
        "the sha256 that it must have.",
    )
