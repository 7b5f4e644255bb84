"""Each stage over one part: model FLOP utilisation, peak of memory, and what the handover costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from jobs.benchmark.loops import BareLoop, Timing, model_flops, stage_flops
from jobs.benchmark.machine import (
    matrix_rate,
    memory_peak_bytes,
    reset_memory_peak,
    synchronize,
)
from jobs.benchmark.work import draw_samples, parts_of
from pipeline.config.config import Config
from pipeline.config.stages import STAGES
from pipeline.execution.operators import Operator, compute_part
from pipeline.records.packing import pack, unpack
from pipeline.records.part import Part, Status

ROUNDS = 3  # the first one warms up: kernels and memory are made once for each shape


def stages(
    config: Config, device: str, edits: int, published_rate: Callable[[str], float | None]
) -> dict[str, Any]:
    """Computes a part stage by stage, packing and unpacking it between them as pools do.

    Args:
        config: of the run; its micro-batches are the planned ones.
        device: "cpu" or "cuda".
        edits: of the part.
        published_rate: of a GPU's name, FLOP/s; None if unknown.

    Returns:
        JSON-able. For each stage: seconds, FLOPs and their rate over the measured and the published
        one; the peak of memory with its micro-batch; the part's bytes before and after it, seconds
        of unpacking and packing, and their share of the time of a pool that does both itself.

    Raises:
        RuntimeError: an edit failed.
    """
    loop = BareLoop(config, device)
    size = loop.model.info.size_for(config.model)
    weights = torch.cuda.memory_allocated() if device == "cuda" else None
    samples = draw_samples(edits, 1, size)
    for _ in range(ROUNDS):
        (part,) = parts_of(samples, edits)
        found: dict[str, dict[str, Any]] = {}
        for name in STAGES:
            part, found[name] = _one_stage(loop, device, name, part)
    counts = {"edited": sum(edit.pending for edit in part.edits)}
    evals = {
        name: sum(getattr(edit, f"num_evals_{name}") for edit in part.edits) for name in STAGES
    }
    timing = Timing(0.0, edits, 0.0, counts, evals=evals)
    work = stage_flops(timing, model_flops(loop.model, size), len(samples))
    rate = matrix_rate(device, loop.model.dtype)
    published = published_rate(torch.cuda.get_device_name()) if device == "cuda" else None
    return {
        "size": size,
        "edits": edits,
        "counts": counts,
        "weights_bytes": weights,
        "matrix_flop_per_s": rate,
        "published_flop_per_s": published,
        "stages": {
            name: _figures(config, name, found[name], work[name], rate, published)
            for name in STAGES
        },
    }


def _one_stage(loop: BareLoop, device: str, name: str, part: Part) -> tuple[Part, dict[str, Any]]:
    """Takes the part through one pool: unpacked, computed and packed."""
    table, start_s = pack(part), time.perf_counter()
    unpacked = unpack(table)
    unpack_s = time.perf_counter() - start_s
    reset_memory_peak(device)
    start_s = time.perf_counter()
    done = compute_part(unpacked, [Operator(name, loop.stages[name])])
    synchronize(device)
    compute_s = time.perf_counter() - start_s
    peak = memory_peak_bytes(device)
    for edit in done.edits:
        if edit.status is Status.FAILED:
            raise RuntimeError(f"an edit failed in {edit.stage}: {edit.message}")
    start_s = time.perf_counter()
    packed = pack(done)
    pack_s = time.perf_counter() - start_s
    return done, {
        "bytes_in": table.nbytes,
        "bytes_out": packed.nbytes,
        "unpack_s": unpack_s,
        "compute_s": compute_s,
        "pack_s": pack_s,
        "peak_bytes": peak,
        "halvings": done.halvings.get(name, 0),
    }


def _figures(
    config: Config, name: str, run: dict[str, Any], flop: int, rate: float, published: float | None
) -> dict[str, Any]:
    seconds, moved_s = run["compute_s"], run["unpack_s"] + run["pack_s"]
    return {
        "seconds": round(seconds, 4),
        "flop": flop,
        "mfu_of_measured_rate": round(flop / seconds / rate, 4),
        "mfu_of_published_rate": round(flop / seconds / published, 4) if published else None,
        "micro_batch": getattr(config.stages, name).micro_batch,
        "memory_peak_bytes": run["peak_bytes"],
        "halvings": run["halvings"],
        "bytes_in": run["bytes_in"],
        "bytes_out": run["bytes_out"],
        "unpack_s": round(run["unpack_s"], 5),
        "pack_s": round(run["pack_s"], 5),
        "handover_share": round(moved_s / (moved_s + seconds), 5),
    }
