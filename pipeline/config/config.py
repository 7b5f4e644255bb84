"""The configuration of a run: one typed model, every range checked before anything starts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.filters import Filtering, canonical, check_computed, filtering_of
from pipeline.config.method import Method
from pipeline.config.run import Planning, Report, Run
from pipeline.config.scores import Scores
from pipeline.config.sections import Section
from pipeline.config.stages import SCORE_STAGE, STAGES, Stage, Stages


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
    max_pixels: int = Field(100_000_000, ge=1)  # a larger image is a failed row
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
    keep_rejected: bool = True  # images that a filter rejects, in _rejected/<shard>.tar
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
