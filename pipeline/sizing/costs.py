"""The cost of an edit by step: calibrated, read from markers, or counted. No torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Literal

from pipeline.config.config import Config
from pipeline.config.method import Method
from pipeline.config.stages import SCORE_STAGE
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.run_files import Amount, Count, RunFileError, parse_record, sealed_json
from pipeline.steps.marker import ShardStats, read_marker
from pipeline.storage.readers import in_threads
from pipeline.storage.store import Store

COSTS_FILE = "_run/costs.json"
MAX_MARKERS = 64  # read for the seconds of an edit; more markers add no information
# Every stage also loads, encodes and writes, so it costs at least this many network evaluations.
MIN_EVALUATIONS = 1.0


@dataclass(frozen=True)
class Costs:
    """The cost of one edit on one actor.

    With source "evaluations", ``seconds`` are network evaluations; only their ratios have meaning.
    """

    source: Literal["calibration", "markers", "evaluations"]
    seconds: dict[str, Amount]  # by step
    edits: Count = 0  # number of edits that were measured
    edits_per_byte: Amount = 0.0  # of input tars; 0: not known
    load_s: Amount = 0.0  # time that an actor takes to load its networks
    device: str = ""  # the GPU's name, or cpu
    device_bytes: Count = 0  # the GPU's memory; 0 on a CPU
    weights_bytes: Count = 0  # GPU memory in use after loading; on a CPU, the process's memory
    peak_bytes: dict[str, Count] = field(default_factory=dict)  # peak of the same memory, by stage
    rows: dict[str, Count] = field(
        default_factory=dict
    )  # rows in one call of the network, by stage
    edit_bytes: dict[str, Amount] = field(default_factory=dict)  # bytes per edit after each step

    def stage_seconds(self, config: Config) -> dict[str, float]:
        """Seconds by stage of this run. With layout fused, one actor runs all stages."""
        return {name: self.seconds.get(name, 0.0) for name in config.stage_names}

    def to_json(self) -> bytes:
        return sealed_json(asdict(self), ascii_only=True)

    @classmethod
    def from_json(cls, data: bytes) -> Costs:
        """Raises RunFileError if the bytes are not such a record."""
        return parse_record(data, COSTS_FILE, cls, remedy="remove it, and edits are measured again")


def known_costs(plan: Plan) -> Costs | None:
    """The costs that this output records: of its calibration, else of its shards' markers.

    A calibration is preferred: its actor had the machine to itself, and it measured memory and
    sizes too.
    """
    try:
        return Costs.from_json(plan.output.get(COSTS_FILE))
    except (FileNotFoundError, RunFileError):  # an estimate is not worth an error
        return marker_costs(plan)


def marker_costs(plan: Plan) -> Costs | None:
    """Seconds of earlier runs, from at most ``MAX_MARKERS`` shards; None if none is published."""
    output, stride = plan.output, max(1, len(plan.published) // MAX_MARKERS)
    names = plan.published[::stride][:MAX_MARKERS]
    markers = [stats for _, stats in in_threads(partial(_marker, output), names) if stats]
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


def _marker(output: Store, shard: str) -> ShardStats | None:
    try:
        return read_marker(output, shard)
    except RunFileError:  # the summary names it
        return None


def counted_costs(
    config: Config, edits_per_byte: float = 0.0, *, guidance_is_embedded: bool = False
) -> Costs:
    """Each stage's network evaluations, used as its cost if nothing was measured.

    Args:
        config: the run.
        edits_per_byte: of input tars; 0: not known.
        guidance_is_embedded: of the model's family, see ``Family``.
    """
    counts = evaluations(config.method, guidance_is_embedded=guidance_is_embedded)
    seconds = {name: max(n, MIN_EVALUATIONS) for name, n in counts.items()}
    if SCORE_STAGE in config.stage_names:
        seconds[SCORE_STAGE] = MIN_EVALUATIONS
    return Costs(source="evaluations", seconds=seconds, edits_per_byte=edits_per_byte)


def evaluations(method: Method, *, guidance_is_embedded: bool = False) -> dict[str, float]:
    """Network evaluations of one edit, by stage. A training step counts as three.

    A guided step takes two, or one where guidance is an input of the network.
    """
    steps = method.steps * method.ratio
    indices = range(1, max(1, round(steps)) + 1)
    takes_two = method.guidance_scale > 1 and not guidance_is_embedded
    with_guidance = [takes_two and method.is_guided_at(index) for index in indices]
    per_step = 1 + sum(with_guidance) / len(with_guidance)
    counts = {"mask": 0.0, "encode": 0.0, "decode": steps * per_step * method.repeats}
    if method.mask.source == "infer":
        counts["mask"] = 2.0 * method.mask.num_noises * len(method.mask.noise_level)
    if method.encode == "ddim":
        counts["encode"] = steps
    if method.imagic is not None:
        fit = 3 * (method.imagic.embedding_steps + method.imagic.model_steps)
        counts["encode"] = float(fit)
    return counts


def estimated_edits(plan: Plan, costs: Costs) -> int | None:
    """About how many edits are left to do; None if that is not known."""
    if costs.edits_per_byte <= 0 and any(work.max_edits is None for work in plan.work):
        return None
    part_size = plan.config.run.part_size
    return round(sum(edits_of(work, costs.edits_per_byte, part_size) or 0.0 for work in plan.work))


def edits_of(work: ShardWork, edits_per_byte: float, part_size: int) -> float | None:
    """About how many edits of a shard are left to do; None if that is not known.

    Args:
        work: the shard.
        edits_per_byte: of input tars; 0: not known.
        part_size: ``run.part_size``.
    """
    if work.max_edits is None and edits_per_byte <= 0:
        return None
    edits = work.shard.size * edits_per_byte if work.max_edits is None else work.max_edits
    return max(0.0, edits - work.num_staged * part_size)
