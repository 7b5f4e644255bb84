"""The configuration's section ``stages``: the pools of actors, one a stage."""

from __future__ import annotations

from pydantic import Field, model_validator

from pipeline.words.section import Count, Section

STAGES = ("mask", "encode", "decode")  # in the order of the flow
SCORE_STAGE = "score"  # a fourth one, after decode, where a score needs a network


class Stage(Section):
    """One pool of actors."""

    actors: Count = 1  # the size of the pool, or its minimum where max_actors is given
    max_actors: int | None = Field(None, ge=1)
    cpus: float = Field(0.25, ge=0.0)  # of Ray's, reserved by an actor
    gpus: float | None = Field(None, ge=0.0)  # none: 1 on CUDA, 0 on a CPU
    memory_bytes: int | None = Field(None, ge=1)
    threads: Count = 1  # of torch, on a CPU; moves the last bits, so it is in the fingerprint
    micro_batch: Count = 32  # network inputs a call; likewise

    @model_validator(mode="after")
    def _sizes_in_order(self) -> Stage:
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"max_actors={self.max_actors} is below actors={self.actors}")
        return self


class Stages(Section):
    """The pools; ``layout: fused`` takes the decode pool's size for its one pool."""

    mask: Stage = Stage()
    encode: Stage = Stage()
    decode: Stage = Stage()
    score: Stage = Stage()  # only where ``scores`` names a network

    @model_validator(mode="after")
    def _equal_threads(self) -> Stages:
        if len({stage.threads for stage in (self.mask, self.encode, self.decode)}) > 1:
            raise ValueError(
                "threads must be equal in mask, encode and decode, so that layouts pools and "
                "fused write the same bytes"
            )
        return self
