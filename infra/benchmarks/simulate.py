"""Runs whose steps do nothing: what the graph and Ray themselves cost, and hold.

Everything between read and write is that of a real run (``jobs/edit/graph.py``); parts are empty,
no network is loaded and nothing is stored, so that a worker is a small process without torch. A
stage may be told to sleep, and to note when it did.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jobs.edit.driver_memory import release_memory
from jobs.edit.edits_left import EditsLeft
from jobs.edit.graph import edit_dataset
from jobs.edit.progress import RunProgress
from jobs.supervise.journal import Journal
from jobs.supervise.watchdog import Guard
from pipeline.config.config import Config
from pipeline.config.stages import STAGES
from pipeline.execution.operators import COMMIT, Flow, Operator
from pipeline.models.model_info import ModelInfo
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.part import Part
from pipeline.records.staged import PartResult
from pipeline.sizing.waves import Pace, next_wave
from pipeline.storage.shards import InputShard

MODEL = ModelInfo(Path("nowhere"), "simulated", "stable-diffusion", "epsilon", 512, 8, 4)


@dataclass(frozen=True)
class Simulation:
    """What stands in the place of images and networks.

    Attributes:
        shards: of the run, in waves of ``run.shards_per_wave``.
        parts: of a shard.
        stage_s: how long a stage sleeps for a part, by the stage's name; none: not at all.
        spans: a folder. Each actor appends there, to a file ``<stage>-<process id>``, a line
            ``start end`` for each part: seconds of the clock (``time.time``) in between which it
            slept. None: nothing is noted.
    """

    shards: int
    parts: int
    stage_s: dict[str, float] = field(default_factory=dict)
    spans: str | None = None

    def flow(self) -> Flow:
        """The steps of a part, which do nothing."""
        return Flow(
            read=partial(_read, self.parts),
            prepare=Operator("prepare", _unchanged),
            load=partial(_load, self.stage_s, self.spans),
            finish=Operator("finish", _unchanged),
            commit=Operator(COMMIT, _committed),
        )

    def plan(self, config: Config) -> Plan:
        """The plan of a run that has everything to do."""
        work = [
            ShardWork(InputShard(f"simulated/{number:07d}.tar", f"{number:07d}", 0))
            for number in range(self.shards)
        ]
        return Plan(config, "cpu", MODEL, "", {}, work, [])


def run_simulation(
    simulation: Simulation,
    config: Config,
    on_part: Callable[[int], None] | None = None,
    on_wave: Callable[[int], None] | None = None,
) -> RunProgress:
    """Runs it on the Ray that this process is connected to.

    Args:
        simulation: see there.
        config: pools, layout and size of a wave.
        on_part: hears of every part that is done, and how many there are by then.
        on_wave: hears how many parts were done when a wave ended.
    """
    plan = simulation.plan(config)
    guard = Guard(_NoJournal(), None)
    every_s = config.run.progress_every_s
    with RunProgress(plan.num_shards, 0, every_s, EditsLeft(plan)) as progress:
        hear = progress.update

        def update(result: PartResult) -> None:
            hear(result)
            if on_part is not None:
                on_part(progress.parts)

        progress.update = update  # type: ignore[method-assign]
        work = plan.work
        while wave := next_wave(work, config, Pace()):
            work = work[len(wave) :]
            progress.follow(edit_dataset(plan, wave, guard, None, simulation.flow()))
            release_memory()
            if on_wave is not None:
                on_wave(progress.parts)
    return progress


class _NoJournal(Journal):
    """Nobody dies in a simulation, and a call of an actor at each step is most of what it takes."""

    def __init__(self) -> None:
        pass

    def begin(self, shard: str, part: int | None, step: str) -> None:
        pass

    def end(self, shard: str, part: int | None) -> None:
        pass

    def start_begins(self, worker: str, pool: str, host: str) -> None:
        pass

    def start_done(self, worker: str) -> None:
        pass


def _read(num_parts: int, work: ShardWork) -> Iterator[Part]:
    for index in range(num_parts):
        yield Part(work.shard.name, index, num_parts)


def _unchanged(part: Part) -> Part:
    return part


def _load(stage_s: dict[str, float], spans: str | None, pool: str) -> list[Operator]:
    names = STAGES if pool == "fused" else (pool,)
    return [Operator(name, partial(_work, name, stage_s.get(name, 0.0), spans)) for name in names]


def _work(name: str, seconds: float, spans: str | None, part: Part) -> Part:
    start = time.time()
    if seconds:
        time.sleep(seconds)
    if spans is not None:
        with open(os.path.join(spans, f"{name}-{os.getpid()}"), "a") as file:
            print(start, time.time(), file=file)
    return part


def _committed(part: Part) -> Part:
    last = part.index == part.num_parts - 1
    part.result = PartResult(part.shard, part.index, {"edited": 1}, part.seconds, published=last)
    return part
