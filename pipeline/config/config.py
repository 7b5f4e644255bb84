"""The configuration of a run, as one typed model. Every range is checked before a run starts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.buckets import Buckets, Resize, checked_buckets
from pipeline.config.filters import (
    Filtering,
    FilterInput,
    canonical,
    check_computed,
    filtering_of,
)
from pipeline.config.input import Input
from pipeline.config.labels import Labels
from pipeline.config.lora import Lora
from pipeline.config.method import Method
from pipeline.config.run import Planning, Report, Run
from pipeline.config.scores import Scores
from pipeline.config.sections import Count, Section
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
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Precision of the networks' weights and arithmetic. See `variant` too.",
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
        "records their launches. Quote 'off': YAML reads off as false.",
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
