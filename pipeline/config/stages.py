"""The configuration's section ``stages``: the pools of actors, one a stage."""

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

    # the size of the pool, or its minimum where max_actors is given; auto: what the plan finds best
    actors: Annotated[int | Literal["auto"], count_or("auto")] = 1
    max_actors: int | None = Field(None, ge=1)
    cpus: float = Field(0.25, ge=0.0)  # of Ray's, reserved by an actor
    gpus: float | None = Field(None, ge=0.0)  # none: 1 on CUDA, 0 on a CPU
    memory_bytes: int | None = Field(None, ge=1)
    # Of torch, on a CPU. They move the last bits, so all stages have one number, and it is in the
    # fingerprint; auto: that of the output, else the whole cores that every actor owns.
    threads: Annotated[int | Literal["auto"], count_or("auto")] = "auto"
    micro_batch: Count = 32  # network inputs a call; likewise

    @model_validator(mode="after")
    def _sizes_in_order(self) -> Stage:
        if self.actors != "auto" and self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"max_actors={self.max_actors} is below actors={self.actors}")
        return self

    @property
    def size(self) -> int:
        """The number of actors, once the plan of the run has found it."""
        if self.actors == "auto":
            raise ValueError("actors=auto: the pools of this run have no size yet")
        return self.actors

    @property
    def num_threads(self) -> int:
        """Of torch in an actor of this pool; auto: its whole cores, at least one."""
        return max(1, int(self.cpus)) if self.threads == "auto" else self.threads

    def gpus_per_actor(self, device: str) -> float:
        """GPUs that an actor reserves: as configured, else one on CUDA and none on a CPU."""
        if self.gpus is not None:
            return self.gpus
        return 1.0 if device == "cuda" else 0.0


class Stages(Section):
    """The pools; ``layout: fused`` takes the decode pool's size for its one pool."""

    mask: Stage = Stage()
    encode: Stage = Stage()
    decode: Stage = Stage()
    score: Stage = Stage()  # only where ``scores`` names a network

    def given_threads(self, names: Iterable[str]) -> int | None:
        """The number that stages of these names ask for; None: all of them are at auto.

        Raises:
            ValueError: they ask for two numbers.
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
        """The same with values of some stages set."""
        changed = {name: getattr(self, name).model_copy(update=values) for name in names}
        return self.model_copy(update=changed)
