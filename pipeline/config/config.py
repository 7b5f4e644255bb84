"""The configuration of a run, as one typed model. Every range is checked before a run starts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.filters import (
    Filtering,
    FilterInput,
    canonical,
    check_computed,
    filtering_of,
)
from pipeline.config.input import Input
from pipeline.config.labels import Labels
from pipeline.config.method import Method
from pipeline.config.model import Model
from pipeline.config.run import Planning, Report, Run
from pipeline.config.scores import Scores
from pipeline.config.sections import Section
from pipeline.config.stages import SCORE_STAGE, STAGES, Stage, Stages


class Output(Section):
    """Where the edited shards go, and in which format."""

    path: str = Field(description="Folder or url for the edited shards.")
    resolution: Literal["model", "source"] = Field(
        "model",
        description="Size of the written image. `model`: the model's. `source`: the original's; "
        "the edited region is scaled back and put into the original.",
    )
    format: Literal["jpg", "png", "webp"] = Field(
        "jpg",
        description="File format of edited images. Only a lossless one keeps the background bit "
        "for bit: `png`, or `webp` with `lossless`.",
    )
    quality: int = Field(95, ge=1, le=100, description="Quality of `jpg` and of lossy `webp`.")
    lossless: bool = Field(
        False, description="Lossless `webp`; only with `format: webp`. `png` is always lossless."
    )
    keep_rejected: bool = Field(
        True,
        description="Keep rejected images in `_rejected/<shard>.tar`. Without them `overpaint "
        "refilter` can only filter further.",
    )
    difference_map: bool = Field(
        False,
        description="Also write `<key>_<edit index>.difference.png`, the map that the mask is cut "
        "from.",
    )
    storage_options: dict[str, Any] = Field(
        default={}, repr=False, description="As `input.storage_options`, for the output."
    )


class Config(Section):
    """The configuration of a run of `overpaint edit`."""

    input: Input
    output: Output
    model: Model = Model()
    method: Method = Method()
    labels: Labels = Labels.model_validate({})
    stages: Stages = Stages()
    run: Run = Run()
    plan: Planning = Planning()
    report: Report = Report()
    scores: Scores = Scores()
    filters: list[str] = Field(
        [],
        description="Conditions that an edit must meet to be kept: `name operator number`, or "
        "`{preset: name}`. All must hold.",
    )

    @model_validator(mode="before")
    @classmethod
    def _some_are_seen_whole(cls, tree: Any) -> Any:
        """An original that keeps its size is padded by default: a crop would edit its middle only.

        So is an image in a listed size, which may be far from its shape. The value is set where
        settings are read, so the fingerprint and ``_run/config.yaml`` hold it like a given one.
        """
        if not isinstance(tree, dict):
            return tree
        output, model = tree.get("output"), tree.get("model", {})
        if not isinstance(output, dict) or not isinstance(model, dict):
            return tree
        is_listed = isinstance(model.get("buckets"), list | tuple)
        if output.get("resolution") != "source" and not is_listed:
            return tree
        return tree | {"model": {"resize": "pad"} | model}

    @property
    def filtering(self) -> Filtering:
        """The filters of this run, and what happens to rejected edits."""
        return filtering_of(self.filters, keep_rejected=self.output.keep_rejected)

    @field_validator("filters", mode="before", json_schema_input_type=FilterInput)
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
        """Threads of torch in every actor on a CPU. auto: the whole cores of the smallest pool."""
        given = self.stages.given_threads(self.stage_names)
        if given is not None:
            return given
        return min(self.pool_stage(name).num_threads for name in self.pools)

    def with_threads(self, number: int) -> Config:
        """A copy with this number of threads in every stage."""
        every = (*STAGES, SCORE_STAGE)
        return self.model_copy(update={"stages": self.stages.updated(every, threads=number)})

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages of this run, in the order of the flow."""
        return (*STAGES, SCORE_STAGE) if self.scores.chosen else STAGES

    @property
    def pools(self) -> tuple[str, ...]:
        """The names of the pools of actors in this layout; "auto" is not resolved yet: pools."""
        return tuple(self.stages_by_pool(self.run.layout))

    def stages_by_pool(self, layout: str) -> dict[str, tuple[str, ...]]:
        """The stages that each pool's actors run, in the order of the flow.

        In layout pools each stage that asks the network has a pool of its own, named like it. Other
        stages run in front of the next one, in its actors: a pool of theirs would do nothing.
        """
        if layout == "fused":
            return {"fused": self.stage_names}
        pools: dict[str, tuple[str, ...]] = {}
        waiting: tuple[str, ...] = ()
        for name in self.stage_names:
            waiting = (*waiting, name)
            if name not in self.method.stages_without_network:
                pools[name], waiting = waiting, ()
        return pools

    def pool_stage(self, pool: str) -> Stage:
        """The settings of a pool; the fused pool takes those of decode."""
        stage: Stage = getattr(self.stages, "decode" if pool == "fused" else pool)
        return stage

    @model_validator(mode="after")
    def _lossless_only_where_there_is_loss(self) -> Config:
        if self.output.lossless and self.output.format != "webp":
            raise ValueError("output.lossless is for output.format: webp (png is always lossless)")
        return self

    @model_validator(mode="after")
    def _reuse_is_not_compiled(self) -> Config:
        if self.method.reuse.interval > 1 and self.model.compile != "off":
            raise ValueError(
                f"method.reuse.interval={self.method.reuse.interval}: allowed with model.compile: "
                f"off, not with {self.model.compile}, which compiles the whole network"
            )
        return self

    @model_validator(mode="after")
    def _imagic_can_be_fitted(self) -> Config:
        if self.method.imagic is not None:
            model = self.model
            batch = self.stages.encode.micro_batch
            self.method.imagic.check_fits(model.dtype, batch, compiled=model.compile != "off")
        return self
