"""The configuration of a run: one typed model, every range checked before anything starts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.decode import Decode
from pipeline.config.filters import Filtering, canonical, check_computed, filtering_of
from pipeline.config.imagic import Imagic
from pipeline.config.planning import Planning
from pipeline.config.report import Report
from pipeline.config.reuse import Reuse
from pipeline.config.scores import Scores
from pipeline.config.sections import Count, Ratio, Section, Share
from pipeline.config.stages import SCORE_STAGE as SCORE_STAGE
from pipeline.config.stages import STAGES as STAGES
from pipeline.config.stages import Stage as Stage
from pipeline.config.stages import Stages


class Input(Section):
    """Which shards to read, and which member of a sample is what."""

    shards: str | list[str]
    limit: int = Field(0, ge=0)  # edits in all; 0 = all of them
    # suffixes, the first one present is taken
    image: list[str] = Field(["jpg", "jpeg", "png", "webp"], min_length=1)
    caption: list[str] = ["txt", "json:caption"]  # a suffix, or a field of key.json
    edits: list[str] = ["edit.txt", "json:edits", "json:edit"]  # edit.txt: one text a line
    mask: str = "mask.png"  # if present it replaces the inferred mask
    substitutions: dict[str, list[str]] = {}  # edit texts made from captions: dog: [cat, fox]
    key_split: Literal["dot", "suffix"] = "dot"  # dot: at the first one, as WebDataset says
    on_bad_shard: Literal["publish", "fail"] = "publish"
    max_pixels: int = Field(100_000_000, ge=1)  # a larger picture is a failed row
    storage_options: dict[str, Any] = Field(default={}, repr=False)

    @field_validator("shards")
    @classmethod
    def _some_shards(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError("name at least one shard, a glob such as 'in/*.tar', or a folder")
        return value


class Output(Section):
    """Where the edited shards go, and in what form."""

    path: str
    resolution: Literal["model", "source"] = "model"
    format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = Field(95, ge=1, le=100)  # jpg and lossy webp
    lossless: bool = False  # webp only; png always is
    keep_rejected: bool = True  # pictures that a filter rejects, in _rejected/<shard>.tar
    difference_map: bool = False  # write <key>_<edit>.difference.png, the map behind the mask
    storage_options: dict[str, Any] = Field(default={}, repr=False)


class Model(Section):
    """Which network, in which arithmetic, at which size."""

    path: str = "bundled"  # "bundled", a local folder in diffusers' format, or a hub id
    revision: str | None = None  # of a hub id; a branch is resolved to its commit at the start
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    size: int | None = Field(None, ge=8)  # pixels a side; none: the model's own
    resize: Literal["crop", "pad", "stretch"] = "crop"
    compile: Literal["off", "default", "cuda_graphs"] = "off"  # torch.compile over the network
    vae_tiling_above: int | None = Field(1024, ge=8)  # pixels a side; none: never in tiles
    compile_cache: str | None = None  # a folder for compiled code; none: torch's own


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
    """The pixel composite: outside the feathered mask the prepared picture stays as it was."""

    enabled: bool = True
    feather: float = Field(4.0, ge=0.0)  # pixels of the model's picture, inward ramp's width


class Method(Section):
    """Which mask, encode and decode are composed, and their settings."""

    name: Literal["diffedit", "sdedit", "imagic"] = "diffedit"
    steps: Count = 50
    encode_ratio: Ratio = 0.8  # DiffEdit's r
    strength: Ratio = 0.5  # SDEdit's t0
    guidance_scale: float = Field(7.5, ge=1.0)  # 1 = no guidance
    negative_text: str = ""
    encode: Literal["ddim", "noise"] = "ddim"  # inversion by the solver, or plain noise
    solver: Literal["ddim", "dpmpp_2m", "bdia"] = "ddim"  # of encoding and decoding alike
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


class Run(Section):
    """How the job runs; of these only seed and part_size change what is computed."""

    seed: int = Field(0, ge=0, lt=2**63)
    part_size: Count = 64  # edits
    layout: Literal["pools", "fused", "auto"] = "pools"  # auto: the faster one, as planned
    address: str | None = None  # of a Ray cluster; none: RAY_ADDRESS, else a local Ray is started
    num_cpus: int | None = Field(None, ge=1)  # of the local Ray; none: the machine's
    cluster_wait_s: float = Field(600.0, ge=0.0)  # for a cluster's nodes to join, at the start
    shards_per_wave: Count = 1024  # between waves the actors start anew
    grace_s: float = Field(120.0, ge=0.0)  # after SIGTERM
    progress_every_s: float = Field(10.0, gt=0.0)  # between plain lines, off a terminal
    log_format: Literal["text", "json"] = "text"  # json: a line each, with shard and part
    max_restarts: int = Field(100, ge=-1)  # of an actor, in a wave; -1 = without end
    max_task_retries: int = Field(1, ge=0)  # of a part whose worker died
    max_start_retries: int = Field(3, ge=0)  # of an actor that cannot load its model, in a row
    max_memory_retries: int = Field(3, ge=0)  # of reading or finishing that Ray ended for memory
    # seconds of one step on a part, after which its worker is ended; none: an hour without a sign
    # of life (a network call, a picture, a storage call)
    part_timeout_s: float | None = Field(None, gt=0.0)


class Config(Section):
    """A complete run."""

    input: Input
    output: Output
    model: Model = Model()
    method: Method = Method()
    stages: Stages = Stages()
    run: Run = Run()
    plan: Planning = Planning()
    report: Report = Report()
    scores: Scores = Scores()
    filters: list[str] = []  # "name operator number"; {preset: name} is spelled out

    @property
    def filtering(self) -> Filtering:
        """What is published of the computed parts."""
        return filtering_of(self.filters, keep_rejected=self.output.keep_rejected)

    @field_validator("filters", mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> list[str]:
        return canonical(value)

    @model_validator(mode="after")
    def _filters_are_computed(self) -> Config:
        check_computed(self.filters, self.scores.computed)
        return self

    @model_validator(mode="after")
    def _one_number_of_threads(self) -> Config:
        self.stages.given_threads(self.stage_names)
        return self

    @property
    def threads(self) -> int:
        """Of torch in every actor, on a CPU; auto: the whole cores of the smallest pool's."""
        given = self.stages.given_threads(self.stage_names)
        if given is not None:
            return given
        names = self.stage_names if self.run.layout == "auto" else self.pools
        return min(self.pool_stage(name).num_threads for name in names)

    def with_threads(self, number: int) -> Config:
        """The same with a number of threads in every stage."""
        every = (*STAGES, SCORE_STAGE)
        return self.model_copy(update={"stages": self.stages.updated(every, threads=number)})

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages of this run, in the order of the flow."""
        return (*STAGES, SCORE_STAGE) if self.scores.chosen else STAGES

    @property
    def pools(self) -> tuple[str, ...]:
        """The names of the pools of actors that the layout has."""
        return ("fused",) if self.run.layout == "fused" else self.stage_names

    def pool_stage(self, pool: str) -> Stage:
        """The configuration of a pool; the fused pool is configured as decode."""
        stage: Stage = getattr(self.stages, "decode" if pool == "fused" else pool)
        return stage

    @model_validator(mode="after")
    def _lossless_only_where_there_is_loss(self) -> Config:
        if self.output.lossless and self.output.format != "webp":
            raise ValueError("output.lossless is for output.format: webp (png always is lossless)")
        return self

    @model_validator(mode="after")
    def _reuse_is_not_compiled(self) -> Config:
        if self.method.reuse.interval > 1 and self.model.compile != "off":
            raise ValueError(
                f"method.reuse.interval={self.method.reuse.interval}: allowed with model.compile: "
                f"off, not with {self.model.compile}, which compiles whole evaluations"
            )
        return self

    @model_validator(mode="after")
    def _imagic_can_be_fitted(self) -> Config:
        if self.method.imagic is not None:
            model = self.model
            batch = self.stages.encode.micro_batch
            self.method.imagic.check_fits(model.dtype, batch, compiled=model.compile != "off")
        return self
