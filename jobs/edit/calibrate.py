"""Runs a few edits through every step in a process of their own, and says what they took."""

from __future__ import annotations

import copy
import resource
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import ray

from jobs.edit.graph import actor_resources
from jobs.logs import use_format
from pipeline.config.config import Config
from pipeline.execution.operators import Operator, compute_part, flow_of, read
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.packing import pack
from pipeline.records.part import Part
from pipeline.sizing.costs import Costs

# auto: on a GPU a whole micro-batch of images; on a CPU a row costs the same in any batch.
EDITS = {"cuda": 32, "cpu": 8}


class CalibrationError(RuntimeError):
    """Nothing could be measured; the message says why."""


def num_edits(config: Config, device: str) -> int:
    """How many edits a calibration computes; never more than a part has."""
    wanted = config.plan.calibrate
    return min(config.run.part_size, wanted if isinstance(wanted, int) else EDITS[device])


def calibrate(plan: Plan) -> Costs:
    """Measures the first edits that are to do, on a node that has what an actor needs.

    Nothing of it is kept, since a part counts whole. Needs a connected Ray.

    Raises:
        CalibrationError: the shard cannot be read, has no edit, or the process died.
    """
    options = actor_resources(plan.config, "fused", plan.device)
    # Ray 2.60 types a class made an actor with options as the class itself.
    actor: Any = ray.remote(**options, max_restarts=0)(_Calibrator).remote()
    try:
        costs: Costs = ray.get(actor.measure.remote(plan.without_shards(), plan.work[0]))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise CalibrationError(f"{type(cause).__name__}: {cause}") from error
    except ray.exceptions.RayError as error:
        raise CalibrationError(f"its process was lost ({type(error).__name__})") from error
    finally:
        ray.kill(actor)
    return costs


class _Calibrator:
    """Has the GPU or the core of one actor to itself, and gives its memory back when it ends."""

    def measure(self, plan: Plan, work: ShardWork) -> Costs:
        """The cost of an edit, after one that is not counted: the first call of each kernel.

        Raises:
            ValueError: the shard has no edit, or a step failed all of them.
        """
        config = plan.config
        use_format(config.run.log_format)
        flow = flow_of(plan)
        start = time.perf_counter()
        stages = flow.load("fused")
        load_s = time.perf_counter() - start
        memory = _Memory(plan.device)
        weights_bytes = memory.now()
        start = time.perf_counter()
        parts = list(read(flow, replace(work, staged=frozenset())))
        read_s = time.perf_counter() - start
        in_shard = sum(len(part.edits) for part in parts)
        part = _first_edits(parts, num_edits(config, plan.device))
        parts.clear()
        if not in_shard:
            raise ValueError(f"shard {work.shard.name} has no edit")
        compute_part(_first_edits([copy.deepcopy(part)], 1), [flow.prepare, *stages])
        part = _measured(part, flow.prepare)
        edits = len(part.edits)
        at_once = _edits_of_one_size(part)
        edit_bytes = {"prepare": pack(part).nbytes / edits}
        peaks, rows = {}, {}
        for stage in stages:
            memory.reset()
            part = _measured(part, stage)
            peaks[stage.name] = memory.peak()
            rows[stage.name] = min(at_once, config.pool_stage(stage.name).micro_batch)
            edit_bytes[stage.name] = pack(part).nbytes / edits
        part = _measured(part, flow.finish)
        seconds = {step: spent / edits for step, spent in part.seconds.items()}
        return Costs(
            source="calibration",
            seconds=seconds | {"read": read_s / in_shard},
            edits=edits,
            edits_per_byte=in_shard / work.shard.size,
            load_s=load_s,
            device=part.device or plan.device,
            device_bytes=memory.total(),
            weights_bytes=weights_bytes,
            peak_bytes=peaks,
            rows=rows,
            edit_bytes=edit_bytes,
        )


def _measured(part: Part, operator: Operator) -> Part:
    """The part after one more step. Seconds of a step that failed everything mean nothing.

    Raises:
        ValueError: no edit came through the step; the message is the last edit's.
    """
    before = sum(edit.pending for edit in part.edits)
    part = compute_part(part, [operator])
    failed = [edit for edit in part.edits if edit.stage == operator.name and edit.error]
    if before and len(failed) >= before:
        raise ValueError(f"{operator.name}: {failed[-1].error}: {failed[-1].message}")
    return part


def _first_edits(parts: list[Part], number: int) -> Part:
    """The first part, cut after so many edits; at least one image stays, with its edits."""
    part = parts[0] if parts else Part("", 0, 0)
    kept = 0
    for index, sample in enumerate(part.samples):
        if kept >= number:
            del part.samples[index:]
            break
        sample.edits = sample.edits[: number - kept]
        kept += len(sample.edits)
    return part


def _edits_of_one_size(part: Part) -> int:
    """The most edits that a stage computes together: those of one size."""
    sizes: Counter[tuple[int, ...]] = Counter()
    for sample in part.samples:
        if sample.image is not None:
            sizes[sample.image.shape] += len(sample.pending)
    return max(sizes.values(), default=1)


class _Memory:
    """Of the device: what torch has allocated on a GPU, or what this process has in main memory."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def reset(self) -> None:
        """Begins a new peak. A process cannot, so there a later peak is at least an earlier one."""
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def now(self) -> int:
        if self.cuda:
            import torch

            return int(torch.cuda.memory_allocated())
        return self.peak()

    def peak(self) -> int:
        if self.cuda:
            import torch

            return int(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def total(self) -> int:
        if self.cuda:
            import torch

            return int(torch.cuda.get_device_properties(0).total_memory)
        return 0
