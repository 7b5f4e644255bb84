"""The section ``method`` of the configuration: how an edit is made."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.imagic import Imagic
from pipeline.config.sections import Count, Ratio, Section, Share


class Mask(Section):
    """DiffEdit, step 1. Defaults are the paper's where it gives one."""

    source: Literal["infer", "full"] = "infer"  # full: edit everywhere (a supplied mask still wins)
    noise_level: list[Ratio] = [0.5]  # shares of the schedule; the maps of several are averaged
    num_noises: Count = 10
    reference: Literal["caption", "empty"] = "caption"
    rule: Literal["minmax", "mean_ratio", "otsu"] = "minmax"
    clamp_percentile: float = Field(99.0, gt=50.0, le=100.0)  # minmax: values above are extreme
    threshold: float = Field(0.5, gt=0.0)  # minmax: of the rescaled map; mean_ratio: of 3 means
    floor: float = Field(0.02, ge=0.0)  # in standard deviations of the predicted noise
    smooth: float = Field(0.0, ge=0.0)  # sigma of a Gaussian on the map, in latent cells
    dilate: int = Field(0, ge=0)  # latent cells
    soft: bool = False  # keep the map's values inside the mask instead of 1

    @field_validator("noise_level", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) else value

    @field_validator("noise_level")
    @classmethod
    def _at_least_one(cls, value: list[float]) -> list[float]:
        if not value:
            raise ValueError("give at least one noise level in (0, 1]")
        return value


class Composite(Section):
    """The pixel composite: outside the feathered mask the prepared image stays as it was."""

    enabled: bool = True
    feather: float = Field(4.0, ge=0.0)  # pixels of the model's image, inward ramp's width


class Decode(Section):
    """DiffEdit, step 3, on the whole latent grid or around each mask (beyond the paper)."""

    region: Literal["full", "box"] = "full"  # box: the mask's square with context
    context: int = Field(4, ge=0)  # latent cells around the mask that the network sees, at least
    multiple: int = Field(8, ge=1)  # of a box's side, in cells: few shapes, and UNets halve thrice


class Reuse(Section):
    """Evaluations of a UNet that compute its outermost layers only: DeepCache, beyond the paper."""

    interval: Count = 1  # every so many steps the whole network is computed; 1 = always
    layers: int = Field(1, ge=1)  # of the first block down and the last block up: what is computed
    encode: bool = False  # in encoding too, whose error decoding then does not undo


class Method(Section):
    """Which mask, encode and decode are composed, and their settings."""

    name: Literal["diffedit", "sdedit", "imagic"] = "diffedit"
    steps: Count = 50
    encode_ratio: Ratio = 0.8  # DiffEdit's r
    strength: Ratio = 0.5  # SDEdit's t0
    guidance_scale: float = Field(7.5, ge=1.0)  # 1 = no guidance
    negative_text: str = ""
    encode: Literal["ddim", "noise"] = "ddim"  # inversion by the solver, or plain noise
    solver: Literal["ddim", "dpmpp_2m"] = "ddim"  # of encoding and decoding alike
    ddim_eta: Share = 0.0  # fresh noise at each step of decoding, as in DDPM at 1
    repeats: Count = 1  # SDEdit's K: the result is noised and decoded again
    mask: Mask = Mask()
    decode: Decode = Decode()
    reuse: Reuse = Reuse()
    composite: Composite = Composite()
    imagic: Imagic | None = None  # of name: imagic only

    @model_validator(mode="before")
    @classmethod
    def _defaults_without_encoding(cls, values: Any) -> Any:
        """SDEdit and Imagic add noise instead of encoding and infer no mask."""
        if isinstance(values, dict) and values.get("name") in ("sdedit", "imagic"):
            values = {"encode": "noise", "mask": {}, **values}
            if isinstance(values["mask"], dict):
                values["mask"] = {"source": "full", **values["mask"]}
            if values["name"] == "imagic":
                values = {"imagic": {}, **values}
        return values

    @model_validator(mode="after")
    def _only_noise_is_drawn_again(self) -> Method:
        if self.ddim_eta and (self.encode != "noise" or self.solver != "ddim"):
            raise ValueError(
                f"ddim_eta={self.ddim_eta}: fresh noise is for encode: noise (sdedit) with "
                "solver: ddim; what was encoded is decoded with ddim_eta: 0"
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

    @property
    def ratio(self) -> float:
        """The share of the schedule that is encoded and decoded, whatever the method calls it."""
        return {"sdedit": self.strength, "imagic": 1.0}.get(self.name, self.encode_ratio)
