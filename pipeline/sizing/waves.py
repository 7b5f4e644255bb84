"""How many shards a wave takes.

At the end of a wave the pools run empty and the next actors load their networks, so waves are long.
They also let a run meet the nodes that have joined or left meanwhile, so they are not too long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.config import Config
from pipeline.plan.plan import ShardWork
from pipeline.sizing.costs import edits_of

# Nodes that joined are used after at most about this long.
WAVE_S = 1800.0
# A wave lasts at least this many times as long as an actor takes to start (DESIGN.md).
STARTS_PER_WAVE = 50
# A part costs the driver at most 5 kB while its wave lasts (infra/benchmarks/README.md).
MAX_PARTS = 20_000
# Of shards with an unknown number of edits.
MAX_UNKNOWN_SHARDS = 1024
ROUNDING = 1e-9  # of the sum of a million shares


@dataclass(frozen=True)
class Pace:
    """What is known of a run as a wave begins."""

    edits_per_s: float | None = None  # None: not known
    edits_per_byte: float = 0.0  # of input tars; 0: not known
    start_s: float = 0.0  # that an actor takes to load its networks


def next_wave(work: Sequence[ShardWork], config: Config, pace: Pace) -> list[ShardWork]:
    """The shards of the next wave, the first ones of those that are left.

    With ``auto``, waves are of about one length, so that the last one is no short one.

    Args:
        work: what is left, in order.
        config: ``run.shards_per_wave`` and ``run.part_size`` are read.
        pace: of the run.
    """
    wanted = config.run.shards_per_wave
    if wanted != "auto":
        return list(work[:wanted])
    sums = list(itertools.accumulate(_share_of_wave(item, config, pace) for item in work))
    if not sums:
        return []
    goal = sums[-1] / max(1, round(sums[-1])) * (1 - ROUNDING)
    number = next(i for i, total in enumerate(sums, 1) if total >= goal or i == len(sums))
    return list(work[:number])


def num_waves(work: Sequence[ShardWork], config: Config, pace: Pace) -> int:
    """About how many waves shards take at one pace; arguments are as of ``next_wave``."""
    wanted = config.run.shards_per_wave
    if wanted != "auto":
        return math.ceil(len(work) / wanted)
    filled = sum(_share_of_wave(item, config, pace) for item in work)
    return min(len(work), max(1, round(filled)))


def _share_of_wave(item: ShardWork, config: Config, pace: Pace) -> float:
    """How much of a wave a shard fills: of its time, or of the parts that the driver can hold."""
    edits = edits_of(item, pace.edits_per_byte, config.run.part_size)
    if edits is None:
        return 1 / MAX_UNKNOWN_SHARDS
    share = max(1.0, edits / config.run.part_size) / MAX_PARTS
    if pace.edits_per_s:
        wave_s = max(WAVE_S, STARTS_PER_WAVE * pace.start_s)
        share = max(share, edits / (pace.edits_per_s * wave_s))
    return share
