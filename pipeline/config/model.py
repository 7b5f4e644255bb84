"""The ``model`` section: which network, in which precision and size, and what is added to it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.buckets import Buckets, Resize, checked_buckets
from pipeline.config.lora import Lora
from pipeline.config.sections import Count, Section


class Model(Section):
    """The network, its precision, and the size of the image that it sees."""

    path: str = Field(
        "bundled",
        description="`bundled` (the demo model), a local folder in diffusers' format, or a hub "
        "id. Safetensors only.",
    )
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of a hub id; null: the hub's default branch. A branch "
        "is resolved to its commit at the start. Of a local folder: the sha256 that it must have.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Precision of the networks' weights and arithmetic. `auto`: `bfloat16` where "
        "the hardware has it (GPUs since Ampere, CPUs with AVX-512 BF16 or AMX), else `float32`; "
        "a resumed output keeps its own, and Imagic takes `float32`. See `variant` too.",
    )
    tf32: bool = Field(
        False,
        description="On GPUs, products of float32 networks (a VAE that float16 overflows, too) in "
        "TF32: faster, to 10 bits in place of 23. It changes the bytes.",
    )
    variant: str = Field(
        "auto",
        pattern=r"\w+",
        description="Which weights of several: `auto` (the `fp16` files in a half dtype where the "
        "model has them), `plain` (the files without a variant in their names) or a variant such "
        "as `fp16`. A component that lacks the asked one is loaded from another.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="`auto` takes CUDA if the cluster or machine has a GPU, else the CPU."
    )
    size: int | None = Field(
        None,
        ge=8,
        description="Pixels a side of the square image that the model sees; null takes the "
        "model's own. Images of another shape (`buckets`) have its area.",
    )
    buckets: Buckets = Field(
        "square",
        description="Size of the image that the model sees. `auto`: the image's own shape, from "
        "1:4 to 4:1, at about the area of `size`, in steps of what the network halves without "
        "remainder (SD 1.5: 64 pixels, SDXL: 32, SD 3: 16). `square`: `size` x `size`. A list of "
        "`[width, height]`: the one whose shape is nearest.",
    )
    resize: Resize = Field(
        "crop",
        description="How an image becomes that size. `crop`: the largest centred box of that "
        "shape; with `auto` less than one step is cut off. `pad`: all of it, with borders. "
        "`stretch`: all of it, in another shape. With `output.resolution: source`, or a list of "
        "`buckets`, the default is `pad`.",
    )
    vae: str | None = Field(
        None,
        description="Another VAE than the model's: a folder in diffusers' format or a hub id, with "
        "the VAE's files in it or in its `vae/`. null: the model's own.",
    )
    vae_revision: str | None = Field(None, description="As `revision`, of `vae`.")
    lora: list[Lora] = Field(
        [],
        description="LoRAs to fuse into the weights, in this order: `[{path: ..., weight: 0.8}]`, "
        "each with `path`, `file` (of a folder or hub id with several), `weight` (1) and "
        "`revision`. A key that matches nothing of the model is an error.",
    )
    compile: Literal["off", "default", "cuda_graphs"] = Field(
        "off",
        description="torch.compile over the network. `default` fuses kernels, `cuda_graphs` also "
        "records their launches.",
    )
    vae_tiling_above: int | None = Field(
        1024,
        ge=8,
        description="Pixels a side, of a square of the image's area; images above this pass the "
        "VAE in overlapping tiles. null: never in tiles.",
    )
    vae_micro_batch: Count | None = Field(
        None,
        description="Images that the VAE takes in one call; it needs most memory for an image (1.9 "
        "GB at 1024 px). null: as many as the stage's `micro_batch`. It changes the last bits.",
    )
    compile_cache: str | None = Field(
        None,
        description="Folder that keeps compiled code for the next actor; null: torch's own. It "
        "must belong to the user who runs the workers, and nobody else may write to it.",
    )

    @property
    def groups_shapes(self) -> bool:
        """Whether images are computed in sizes of their own, so that like shapes share parts."""
        return self.buckets != "square"

    @field_validator("buckets", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        return checked_buckets(value)

    @field_validator("lora")
    @classmethod
    def _each_once(cls, value: list[Lora]) -> list[Lora]:
        named = [(lora.path, lora.file) for lora in value]
        for path, file in named:
            if named.count((path, file)) > 1:
                raise ValueError(f"{file or path!r} is named twice; give it one weight")
        return value

    @model_validator(mode="after")
    def _a_revision_is_of_a_vae(self) -> Model:
        if self.vae_revision is not None and self.vae is None:
            raise ValueError(f"vae_revision={self.vae_revision!r}: only with model.vae")
        return self

    @model_validator(mode="after")
    def _compiled_shapes_are_known(self) -> Model:
        if self.compile != "off" and self.buckets == "auto":
            raise ValueError(
                f"buckets='auto': not with compile: {self.compile}, which compiles for each size "
                "anew; name a list of sizes, or square"
            )
        return self
