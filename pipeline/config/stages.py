"""The section ``stages`` of the configuration: a pool of actors for each stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.sections import Count, Section, count_or

STAGES = ("mask", "encode", "decode")  # in the order of the flow
SCORE_STAGE = "score"  # a fourth one, after decode, where a score needs a network
TIMED_STEPS = ("read", "prepare", *STAGES, SCORE_STAGE, "finish")  # in the order of the flow


class Stage(Section):
    """One pool of actors."""

    actors: Annotated[Count | Literal["auto"], count_or("auto")] = Field(
        "auto",
        description="Size of the pool, or its minimum if `max_actors` is set. `auto`: what the "
        "plan finds best.",
    )
    max_actors: int | None = Field(
        None, ge=1, description="Size that the pool may grow to; null: it does not grow."
    )
    cpus: float = Field(0.25, ge=0.0, description="CPUs that each actor reserves in Ray.")
    gpus: float | None = Field(
        None, ge=0.0, description="GPUs that each actor reserves; null: 1 on CUDA, 0 on a CPU."
    )
    memory_bytes: int | None = Field(
        None,
        ge=1,
        description="Main memory that each actor reserves in Ray; null: that of the two parts that "
        "it holds.",
    )
    # Threads and micro_batch move the last bits, so both are in the fingerprint.
    threads: Annotated[Count | Literal["auto"], count_or("auto")] = Field(
        "auto",
        description="Threads of torch on a CPU, equal in all stages. `auto`: as in a resumed "
        "output, else the whole cores of the smallest pool.",
    )
    micro_batch: Count = Field(
        32,
        description="Rows that the network computes in one call. Lower it if memory runs out; "
        "it changes the last bits.",
    )

    @model_validator(mode="after")
    def _sizes_in_order(self) -> Stage:
        if self.actors != "auto" and self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"max_actors={self.max_actors} is below actors={self.actors}")
        return self

    @property
    def size(self) -> int:
        """The number of actors, once the plan of the run has set it."""
        if self.actors == "auto":
            raise ValueError("actors=auto: the pools of this run have no size yet")
        return self.actors

    @property
    def num_threads(self) -> int:
        """Threads of torch in an actor of this pool. auto: its whole cores, at least one."""
        return max(1, int(self.cpus)) if self.threads == "auto" else self.threads

    def gpus_per_actor(self, device: str) -> float:
        """GPUs that an actor reserves: as configured, else 1 on CUDA and 0 on a CPU."""
        if self.gpus is not None:
            return self.gpus
        return 1.0 if device == "cuda" else 0.0


class Stages(Section):
    """A pool of actors for each stage. `layout: fused` has one pool, sized as `decode`.

    A stage that asks the network nothing (SDEdit's mask and encoding, `encode: noise`,
    `mask.source: full`) runs in the next one's actors: only its `micro_batch` counts.
    """

    mask: Stage = Field(Stage(), description="The pool that infers edit masks.")
    encode: Stage = Field(
        Stage(), description="The pool that encodes images, or fits Imagic's embeddings."
    )
    decode: Stage = Field(
        Stage(), description="The pool that decodes edits; with `layout: fused` the only pool."
    )
    score: Stage = Field(
        Stage(), description="The pool that scores edits; only used if `scores` names a network."
    )

    def given_threads(self, names: Iterable[str]) -> int | None:
        """The number of threads that these stages ask for; None if all of them say auto.

        Raises:
            ValueError: two stages ask for different numbers.
        """
        threads = {name: getattr(self, name).threads for name in names}
        given = {name: number for name, number in threads.items() if number != "auto"}
        if len(set(given.values())) > 1:
            words = ", ".join(f"stages.{name}.threads={number}" for name, number in given.items())
            raise ValueError(
                f"{words}: threads must be equal in all stages, so that layouts pools and fused "
                "write the same bytes; one number is enough, auto follows it"
            )
        return next(iter(given.values()), None)

    def updated(self, names: Iterable[str], **values: Any) -> Stages:
        """A copy with these values set in these stages."""
        changed = {name: getattr(self, name).model_copy(update=values) for name in names}
        return self.model_copy(update=changed)
