"""The section ``method`` of the configuration: how an edit is made."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.imagic import Imagic
from pipeline.config.mask import Mask
from pipeline.config.sections import Count, Ratio, Section, Share


class Composite(Section):
    """The pixel composite: outside the feathered mask the input's pixels stay as they were."""

    enabled: bool = Field(
        True,
        description="Put the input's pixels back outside the mask. false keeps the decoded ones.",
    )
    feather: float = Field(
        4.0,
        ge=0.0,
        description="Width of the transition inside the edge of the mask, in pixels of the model's "
        "image.",
    )


class Decode(Section):
    """Where DiffEdit's step 3 decodes: the whole latent grid, or a box (beyond the paper)."""

    region: Literal["full", "box"] = Field(
        "full",
        description="`full`: the whole latent grid. `box`: a square around each mask, which is "
        "faster (Stable Diffusion 1 and 2 only).",
    )
    context: int = Field(
        4, ge=0, description="`box`: latent cells around the mask that the network sees, at least."
    )
    multiple: int = Field(
        8,
        ge=1,
        description="`box`: its side is a multiple of this, in latent cells, so that shapes are "
        "few. UNets halve the grid three times.",
    )


class Reuse(Section):
    """Reuse of a UNet's deep features between steps: DeepCache (arXiv:2312.00858)."""

    interval: Count = Field(
        1,
        description="Compute the whole network every so many steps, in between only its outermost "
        "layers. Stable Diffusion 1 and 2, SDXL; not with `model.compile`.",
    )
    layers: int = Field(
        1,
        ge=1,
        description="Layers of the first block down and the last block up that are computed at "
        "every step.",
    )
    encode: bool = Field(
        False, description="Reuse in encoding too; decoding does not undo that error."
    )


class Method(Section):
    """The editing method: which mask, encode and decode it is made of, and their settings."""

    name: Literal["diffedit", "sdedit", "imagic"] = Field(
        "diffedit", description="The editing method."
    )
    steps: Count = Field(50, description="Steps of the sampler over the whole schedule.")
    encode_ratio: Ratio = Field(
        0.8,
        description="diffedit: share of the schedule that is encoded and decoded (the paper's r). "
        "More changes more.",
    )
    strength: Ratio = Field(
        0.5,
        description="sdedit: share of the schedule that is noised and decoded (the paper's t0). "
        "More changes more.",
    )
    guidance_scale: float = Field(
        7.5,
        ge=1.0,
        description="Classifier-free guidance in decoding; 1 is none, and halves its cost.",
    )
    guidance_interval: tuple[Share, Share] | None = Field(
        None,
        description="`[low, high]`: levels with guidance, as shares of the schedule. At the others "
        "the negative half is not computed. null: all levels.",
    )
    negative_text: str = Field("", description="The text that guidance leads away from.")
    encode: Literal["ddim", "noise"] = Field(
        "ddim",
        description="`ddim`: invert the image with `solver`. `noise`: add noise, as SDEdit does; "
        "the default for sdedit and imagic.",
    )
    solver: Literal["ddim", "dpmpp_2m"] = Field(
        "ddim",
        description="Solver of encoding and decoding. `ddim`: the papers'. `dpmpp_2m`: "
        "DPM-Solver++ of second order.",
    )
    ddim_eta: Share = Field(
        0.0,
        description="Fresh noise at each step of decoding: 0 is none, 1 is that of DDPM. Only with "
        "`encode: noise` and `solver: ddim`.",
    )
    repeats: Count = Field(
        1,
        description="sdedit: how often the result is noised and decoded (the paper's K). More than "
        "1 only with `encode: noise`.",
    )
    mask: Mask = Mask()
    decode: Decode = Decode()
    reuse: Reuse = Reuse()
    composite: Composite = Composite()
    imagic: Imagic | None = Field(
        None, description="Settings of Imagic; only with `name: imagic`, which sets them if absent."
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_without_encoding(cls, values: Any) -> Any:
        """SDEdit and Imagic add noise instead of encoding, and infer no mask."""
        if isinstance(values, dict) and values.get("name") in ("sdedit", "imagic"):
            values = {"encode": "noise", "mask": {}, **values}
            if isinstance(values["mask"], dict):
                values["mask"] = {"source": "full", **values["mask"]}
            if values["name"] == "imagic":
                values = {"imagic": {}, **values}
        return values

    @field_validator("guidance_interval")
    @classmethod
    def _low_before_high(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"{list(value)}: allowed is [low, high] with low below high")
        return value

    @model_validator(mode="after")
    def _only_noise_is_drawn_again(self) -> Method:
        if self.ddim_eta and (self.encode != "noise" or self.solver != "ddim"):
            raise ValueError(
                f"ddim_eta={self.ddim_eta}: fresh noise is for encode: noise (sdedit) with "
                "solver: ddim; an encoded image is decoded with ddim_eta: 0"
            )
        if self.repeats > 1 and self.encode != "noise":
            raise ValueError(f"repeats={self.repeats}: more than 1 is for encode: noise (sdedit)")
        return self

    @model_validator(mode="after")
    def _imagic_is_complete(self) -> Method:
        if (self.imagic is not None) != (self.name == "imagic"):
            raise ValueError(f"method.imagic is for method.name: imagic, not for {self.name}")
        if self.name == "imagic":
            own = {"encode": "noise", "ddim_eta": 0.0, "repeats": 1}
            for key, allowed in own.items():
                if getattr(self, key) != allowed:
                    raise ValueError(f"{key}={getattr(self, key)!r}: imagic allows {allowed!r}")
            if self.decode.region != "full":
                raise ValueError(f"decode.region={self.decode.region!r}: imagic allows 'full'")
            if self.reuse.interval > 1:
                raise ValueError(f"reuse.interval={self.reuse.interval}: imagic allows 1")
        return self

    def is_guided_at(self, index: int) -> bool:
        """Whether ``guidance_interval`` has guidance at the level of this index, 1 to ``steps``."""
        if self.guidance_interval is None:
            return True
        low, high = self.guidance_interval
        return low <= index / self.steps <= high

    @property
    def stages_without_network(self) -> tuple[str, ...]:
        """The stages that ask the network nothing; they run in the pool of the next stage."""
        without = []
        if self.mask.source == "full":
            without.append("mask")
        if self.encode == "noise" and self.imagic is None:
            without.append("encode")
        return tuple(without)

    @property
    def stages_without_texts(self) -> tuple[str, ...]:
        """The stages that embed no text but the empty one. Their actors keep no text encoder."""
        without = ["mask"] if self.mask.source == "full" else []
        return (*without, "encode") if self.imagic is None else tuple(without)

    @property
    def ratio(self) -> float:
        """The share of the schedule that is encoded and decoded, by the method's own key."""
        return {"sdedit": self.strength, "imagic": 1.0}.get(self.name, self.encode_ratio)
