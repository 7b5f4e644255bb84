"""What the graph's operators do with a part: those of a run, or what a simulation puts there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.config.config import Config
from pipeline.execution.operators import PartResult, finish_and_commit, prepared, read
from pipeline.plan.plan import ShardWork
from pipeline.records.part import Part
from pipeline.steps.finish import FinishContext
from pipeline.storage.store import Store

Stages = dict[str, Callable[[Part], Part]]


def load_stages(config: Config, name: str, device: str) -> Stages:
    """The stages of a pool's actor, by name, over one loaded network."""
    # Here, and not above: readers and writers import this module too, and need no torch.
    from pipeline.stages.build import load_fused, load_stage

    if name == "fused":
        return dict(load_fused(config, device))
    return {name: load_stage(config, name, device)}


@dataclass(frozen=True)
class Steps:
    """The steps of a run, as functions that travel to the workers by name."""

    read: Callable[[ShardWork, Config], Iterator[Part]] = read
    prepare: Callable[[Part, Config, int], Part] = prepared
    load: Callable[[Config, str, str], Stages] = load_stages
    finish: Callable[[Part, FinishContext, Store], PartResult] = finish_and_commit


STEPS = Steps()
