"""What an edit costs, step by step: measured, read from markers, or counted. No torch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Literal

from pipeline.config.config import Config
from pipeline.config.method import Method
from pipeline.config.stages import SCORE_STAGE
from pipeline.plan.plan import Plan
from pipeline.steps.publish import read_marker
from pipeline.storage.readers import in_threads

COSTS_FILE = "_run/costs.json"
MAX_MARKERS = 64  # read to know what edits took; more tell no more
# A stage loads, encodes and writes beside the network: never nothing, in network evaluations.
LEAST_EVALUATIONS = 1.0


@dataclass(frozen=True)
class Costs:
    """One edit on one actor. Seconds of "evaluations" have no unit: their ratios alone count."""

    source: Literal["calibration", "markers", "evaluations"]
    seconds: dict[str, float]  # by step
    edits: int = 0  # that it was measured on
    edits_per_byte: float = 0.0  # of input tars; 0: not known
    load_s: float = 0.0  # from the start of an actor's loading to its end
    device: str = ""  # the GPU's name, or cpu
    device_bytes: int = 0  # of the GPU's memory; 0 on a CPU
    weights_bytes: int = 0  # allocated on it after loading; on a CPU of the process
    peak_bytes: dict[str, int] = field(default_factory=dict)  # likewise at most, by stage
    rows: dict[str, int] = field(default_factory=dict)  # of the network at once, by stage
    edit_bytes: dict[str, float] = field(default_factory=dict)  # an edit's share of a part after it

    def stage_seconds(self, config: Config) -> dict[str, float]:
        """Of this run's stages; in layout fused an actor does them all."""
        return {name: self.seconds.get(name, 0.0) for name in config.stage_names}

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Costs:
        """Raises ValueError or TypeError for bytes that are no such record."""
        return cls(**json.loads(data))


def known_costs(plan: Plan) -> Costs | None:
    """What this output says of its edits: its calibration, else the markers of its shards.

    A calibration is preferred: its actor had the machine to itself, and it knows memory and sizes.
    """
    try:
        return Costs.from_json(plan.output.get(COSTS_FILE))
    except (FileNotFoundError, ValueError, TypeError):
        return marker_costs(plan)


def marker_costs(plan: Plan) -> Costs | None:
    """Seconds of a run that went before, of at most ``MAX_MARKERS`` shards; None without any."""
    output, stride = plan.output, max(1, len(plan.published) // MAX_MARKERS)
    names = plan.published[::stride][:MAX_MARKERS]
    read = in_threads(partial(read_marker, output), names)
    markers = [stats for _, stats in read if stats]
    edits = sum(stats.num_rows for stats in markers)
    if not edits:
        return None
    seconds: Counter[str] = Counter()
    for stats in markers:
        seconds.update(stats.seconds)
    sizes = [plan.inputs[stats.shard].size for stats in markers if stats.shard in plan.inputs]
    num_bytes = sum(sizes)
    return Costs(
        source="markers",
        seconds={step: spent / edits for step, spent in seconds.items()},
        edits=edits,
        edits_per_byte=edits / num_bytes if num_bytes and len(sizes) == len(markers) else 0.0,
        device=next((device for stats in markers for device in stats.devices), ""),
    )


def counted_costs(config: Config) -> Costs:
    """The shares of the stages by the network's evaluations, where nothing was measured."""
    seconds = {name: max(n, LEAST_EVALUATIONS) for name, n in evaluations(config.method).items()}
    if SCORE_STAGE in config.stage_names:
        seconds[SCORE_STAGE] = LEAST_EVALUATIONS
    return Costs(source="evaluations", seconds=seconds)


def evaluations(method: Method) -> dict[str, float]:
    """Of the network for an image with one edit text, by stage; of a fit with passes back."""
    guided = 1 if method.guidance_scale == 1 else 2
    steps = method.steps * method.ratio
    counts = {"mask": 0.0, "encode": 0.0, "decode": steps * guided * method.repeats}
    if method.mask.source == "infer":
        counts["mask"] = 2.0 * method.mask.num_noises * len(method.mask.noise_level)
    if method.encode == "ddim":
        counts["encode"] = steps
    if method.imagic is not None:
        fit = 3 * (method.imagic.embedding_steps + method.imagic.model_steps)
        counts["encode"] = float(fit)
    return counts


def estimated_edits(plan: Plan, costs: Costs) -> int | None:
    """About how many edits are left to do; None where nothing tells."""
    if costs.edits_per_byte <= 0 and any(work.max_edits is None for work in plan.work):
        return None
    part_size = plan.config.run.part_size
    total = 0.0
    for work in plan.work:
        edits = work.shard.size * costs.edits_per_byte if work.max_edits is None else work.max_edits
        total += max(0.0, edits - len(work.staged) * part_size)
    return round(total)
