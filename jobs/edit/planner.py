"""``overpaint plan``: sizes a run and estimates its cost. Every run begins with the same."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, replace

from jobs.edit.calibrate import CalibrationError, calibrate, num_edits
from jobs.edit.cluster import check_pools
from jobs.edit.devices import device_of, has_bfloat16
from jobs.edit.memory_table import print_memory
from jobs.edit.paths import check_stores, with_absolute_paths
from jobs.edit.progress import duration
from jobs.edit.ray_start import RayStart
from jobs.edit.waves import SizedPlan, sized_plan
from jobs.logs import is_json, tell, use_format
from jobs.ray_environment import cluster_address
from jobs.terminal import show, show_table
from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.models.families import family_named
from pipeline.plan.plan import Plan, make_plan
from pipeline.sizing.costs import COSTS_FILE, Costs, counted_costs, estimated_edits, known_costs
from pipeline.sizing.estimate import Estimate, is_sized
from pipeline.sizing.part_memory import counted_edit_bytes
from pipeline.sizing.pools import Node, PoolsDoNotFitError
from pipeline.sizing.warnings import plan_warnings
from pipeline.sizing.waves import Pace, num_waves

# A calibration may take this share of a run, its loading of the model apart: better sizes save
# little more.
CALIBRATION_SHARE = 0.05


def print_plan(config: Config, *, verbose: bool = False) -> int:
    """Prints the estimate of a run, on the cluster or on this machine; writes nothing.

    Raises:
        ConfigError: the run could not start.
    """
    use_format(config.run.log_format)
    check_stores(config)
    if cluster_address(config):
        config = with_absolute_paths(config)
    with RayStart(config, verbose) as ray_start:
        ray_start.connected_for_auto()
        device = device_of(config)
        plan = make_plan(
            config, device, bfloat16=has_bfloat16(config, device), on_work=ray_start.begin
        )
        if not plan.work:
            tell("nothing is left to compute", to=sys.stdout)
            return 0
        ray_start.connected()
        sizes = planned(plan, measure=True, keep=False)
        print_memory(sizes.plan, sizes.expected, sizes.nodes)
    return 0


def planned(plan: Plan, *, measure: bool, keep: bool, edits_per_byte: float = 0.0) -> SizedPlan:
    """Sizes a run, prints the estimate and its warnings. Needs a connected Ray.

    Args:
        plan: with work to do.
        measure: with ``plan.calibrate: auto``, calibrate even if the config sets every size.
        keep: write a new calibration into the output, for resumed runs.
        edits_per_byte: of the shards to do, as far as somebody has looked; 0: not known.

    Raises:
        ConfigError: the pools do not fit.
    """
    nodes = check_pools(plan.config, plan.device)
    costs = _costs(plan, nodes, edits_per_byte, measure=measure, keep=keep)
    if not costs.edit_bytes:
        costs = replace(costs, edit_bytes=counted_edit_bytes(plan))
    try:
        found = sized_plan(plan, costs, nodes, estimated_edits(plan, costs))
    except PoolsDoNotFitError as error:
        raise ConfigError(f"stages: {error}") from None
    config, expected = found.plan.config, found.expected
    _print(found.plan, expected, costs, nodes)
    for line in plan_warnings(expected, config, plan.device, costs, nodes, len(plan.work)):
        tell(f"warning: {line}", level="warning")
    return found


def _costs(
    plan: Plan, nodes: list[Node], edits_per_byte: float, *, measure: bool, keep: bool
) -> Costs:
    """The costs that the output records; else calibrated, if that is wanted; else counted."""
    wanted = plan.config.plan.calibrate
    known = known_costs(plan)
    if known is not None:
        return known
    embedded = family_named(plan.model.family).guidance_is_embedded
    counted = counted_costs(plan.config, edits_per_byte, guidance_is_embedded=embedded)
    if wanted == "never":
        return counted
    if wanted == "auto" and not measure:
        edits = estimated_edits(plan, counted)
        if is_sized(plan.config) or not _is_worth_measuring(plan, nodes, edits):
            return counted
    tell(f"plan: measuring {num_edits(plan.config, plan.device)} edits")
    try:
        costs = calibrate(plan)
    except CalibrationError as error:
        tell(f"warning: the calibration failed: {error}", level="warning")
        return counted
    if keep:
        plan.output.put_if_absent(COSTS_FILE, costs.to_json())
    return costs


def _is_worth_measuring(plan: Plan, nodes: list[Node], edits: int | None) -> bool:
    """Whether a calibration takes little of a run. While it measures, all other devices wait."""
    if edits is None:
        return True
    stage, config = plan.config.pool_stage("fused"), plan.config
    if plan.device == "cuda":
        actors = sum(node.gpus for node in nodes) / (stage.gpus_per_actor("cuda") or 1.0)
    else:
        actors = sum(node.cpus for node in nodes) / max(stage.cpus, config.threads)
    return edits * CALIBRATION_SHARE >= max(1.0, actors) * num_edits(config, plan.device)


def _print(plan: Plan, expected: Estimate, costs: Costs, nodes: list[Node]) -> None:
    if is_json():
        tell("plan", plan=asdict(expected), costs=costs.source)
        return
    config, known = plan.config, costs.source != "evaluations"
    names = ["pool", "actors", "s per edit", "busy", "micro-batch"]
    names += ["largest that fits"] if expected.micro_batch else []
    rows = []
    stages = costs.stage_seconds(config)
    for pool, in_pool in config.stages_by_pool(expected.layout).items():
        seconds = sum(stages[name] for name in in_pool)
        row = [pool, str(expected.sizes[pool]), f"{seconds:.3g}" if known else ""]
        row += [f"{expected.busy[pool]:.0%}", str(config.pool_stage(pool).micro_batch)]
        if expected.micro_batch:
            fits = [size for name, size in expected.micro_batch.items() if name in in_pool]
            row.append(str(min(fits)) if fits else "")
        rows.append(row)
    show_table(names, rows, title="plan")
    for line in _lines(plan, expected, costs, nodes):
        show(line)


def _lines(plan: Plan, expected: Estimate, costs: Costs, nodes: list[Node]) -> list[str]:
    """The plan in sentences."""
    config = plan.config
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    how = {
        "calibration": f"costs measured on {costs.edits} edits",
        "markers": f"costs from {costs.edits} edits of this output",
        "evaluations": "costs not measured (plan.calibrate), but counted in network evaluations",
    }
    lines = [
        f"cluster: {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}, {cpus:g} CPUs, "
        f"{gpus:g} GPUs; layout {expected.layout}; {expected.readers} shards read at once; "
        f"{how[costs.source]}",
    ]
    if expected.images_per_s is None:
        return lines
    about = "" if expected.edits is None else f"about {expected.edits} edits"
    words = [f"expected: {expected.images_per_s:.3g} images/s", about]
    if expected.wall_s is not None and expected.device_hours is not None:
        kind = "GPU" if plan.device == "cuda" else "actor"
        words += [duration(expected.wall_s), f"{expected.device_hours:.3g} {kind}-hours"]
    if expected.money is not None:
        digits = ".2f" if expected.money >= 1 else ".2g"
        words.append(f"{expected.money:{digits}} {config.report.currency}")
    lines.append(", ".join(word for word in words if word))
    pace = Pace(expected.images_per_s, costs.edits_per_byte, costs.load_s)
    waves = num_waves(plan.work, config, pace)
    if waves > 1:
        each = "" if expected.wall_s is None else f", {duration(expected.wall_s / waves)} each"
        lines.append(
            f"{waves} waves of about {math.ceil(len(plan.work) / waves)} shards{each}: nodes that "
            "join are used from the next one on"
        )
    if config.run.part_timeout_s is None:
        lines.append(f"a worker without a heartbeat for {expected.silence_s:.0f} s is killed")
    return lines
