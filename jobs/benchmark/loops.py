"""The loops that are timed, and the FLOPs that they compute."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_flop_count

from jobs.benchmark.machine import memory_peak_bytes, reset_memory_peak
from jobs.benchmark.work import BenchmarkSample, parts_of, write_input
from pipeline.config.config import Config
from pipeline.config.stages import STAGES
from pipeline.execution.local_loop import run_loop
from pipeline.execution.operators import Operator, compute_part
from pipeline.models.compiled import uncompiled
from pipeline.models.loading import LatentDiffusion
from pipeline.plan.plan import make_plan
from pipeline.records.part import Part, Status
from pipeline.records.staged import PartResult
from pipeline.stages.build import StageStep, build_stage, load_stages


@dataclass(frozen=True)
class Timing:
    """One run of a loop.

    Attributes:
        seconds: wall clock, from prepared to edited images (whole job: from shard to shard).
        edits: number of edits requested.
        cpu_seconds: of all threads of this process; other load hardly changes them.
        counts: edits by status; "edited" for an edit that was decoded.
        stage_seconds: by stage, if the loop has stages.
        evals: network evaluations by stage.
        memory_peak_bytes: of the GPU, or of the process on a CPU.
    """

    seconds: float
    edits: int
    cpu_seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    evals: Mapping[str, int] = field(default_factory=dict)
    memory_peak_bytes: int | None = None

    @property
    def edits_per_s(self) -> float:
        return self.edits / self.seconds


class Clock:
    """Wall and CPU seconds of this process since the clock was made."""

    def __init__(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._start, time.process_time() - self._cpu_start


class BareLoop:
    """The stages over parts in memory, without files and Ray: an upper bound for a job's speed."""

    def __init__(
        self, config: Config, device: str, stages: dict[str, StageStep] | None = None
    ) -> None:
        self.config, self.device = config, device
        self.stages = load_stages(config, "fused", device) if stages is None else stages

    def with_config(self, config: Config) -> BareLoop:
        """A loop with another method or micro-batch over the same networks."""
        stages = {
            name: build_stage(
                config, name, self.model.with_micro_batch(getattr(config.stages, name).micro_batch)
            )
            for name in STAGES
        }
        return BareLoop(config, self.device, stages)

    def run(self, samples: list[BenchmarkSample]) -> Timing:
        """Times every stage over every part of the samples; see ``run_parts``."""
        return self.run_parts(parts_of(samples, self.config.run.part_size))

    def run_parts(self, parts: list[Part]) -> Timing:
        """Times every stage over every part; here, unlike in a run, a failed edit is an error.

        Raises:
            RuntimeError: an edit failed.
        """
        reset_memory_peak(self.device)
        clock = Clock()
        operators = [Operator(name, stage) for name, stage in self.stages.items()]
        done = [compute_part(part, operators) for part in parts]
        return _timing(clock, done, memory_peak_bytes(self.device))

    @property
    def model(self) -> LatentDiffusion:
        """The loaded networks."""
        model: LatentDiffusion = self.stages["decode"].model  # type: ignore[attr-defined]
        return model


def run_whole(loop: BareLoop, samples: list[BenchmarkSample]) -> Timing:
    """Times the whole job in one process: a shard on disk is read, edited, written and published.

    It uses the networks of ``loop``, so the time does not include loading them.
    """
    with TemporaryDirectory(prefix="overpaint-benchmark-") as home:
        write_input(Path(home) / "00000.tar", samples)
        places = {"input": {"shards": f"{home}/*.tar"}, "output": {"path": f"{home}/out"}}
        plan = make_plan(Config.model_validate(loop.config.model_dump() | places), loop.device)
        results: list[PartResult] = []
        reset_memory_peak(loop.device)
        clock = Clock()
        run_loop(plan, results.append, loop.stages)
        seconds, cpu_seconds = clock.read()
    counts: Counter[str] = Counter()
    stage_seconds: Counter[str] = Counter()
    for result in results:
        counts.update(result.counts)
        stage_seconds.update(result.seconds)
    peak = memory_peak_bytes(loop.device)
    return Timing(
        seconds, counts.total(), cpu_seconds, counts, stage_seconds, memory_peak_bytes=peak
    )


def model_flops(model: LatentDiffusion, size: int) -> dict[str, int]:
    """FLOPs (multiplications and additions) of one network evaluation, VAE encode and VAE decode.

    torch counts them for one row. As usual in the field, only matrix products, convolutions and
    attention count.
    """
    cells = size // model.info.latent_scale
    latent = torch.zeros(1, model.info.latent_channels, cells, cells, device=model.device)
    level = model.schedule.level_at(0.5)
    with torch.inference_mode(), uncompiled(model.unbatched.network):
        text = model.text.encode([""])
        calls = {
            "eval": lambda: model.unbatched(latent, level, text),
            "vae_encode": lambda: model.image_coder.encode([np.zeros((size, size, 3), np.uint8)]),
            "vae_decode": lambda: model.image_coder.decode(latent),
        }
        return {name: _flops(call) for name, call in calls.items()}


def stage_flops(timing: Timing, flops: Mapping[str, int], num_images: int) -> dict[str, int]:
    """The FLOPs of each stage in a run: network evaluations, and images through the VAE."""
    decoded = timing.counts.get("edited", 0)
    total = {name: timing.evals[name] * flops["eval"] for name in STAGES}
    total["mask"] += num_images * flops["vae_encode"]
    total["decode"] += decoded * flops["vae_decode"]
    return total


def _timing(clock: Clock, parts: list[Part], peak: int | None) -> Timing:
    seconds, cpu_seconds = clock.read()
    counts: Counter[str] = Counter()
    for edit in (edit for part in parts for edit in part.edits):
        if edit.status is Status.FAILED:
            raise RuntimeError(f"benchmark: an edit failed in {edit.stage}: {edit.message}")
        counts["edited" if edit.pending else str(edit.status)] += 1
    return Timing(
        seconds,
        counts.total(),
        cpu_seconds,
        counts,
        {name: sum(part.seconds[name] for part in parts) for name in STAGES},
        {
            name: sum(getattr(edit, f"num_evals_{name}") for part in parts for edit in part.edits)
            for name in STAGES
        },
        peak,
    )


def _flops(call: Any) -> int:
    # torch 2.13's table lacks operators for CPUs: this attention, and those of oneDNN.
    mapping = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        torch.ops.aten.mkldnn_convolution: _convolution_flops,
        torch.ops.mkldnn._linear_pointwise: _linear_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        call()
    return int(counter.get_total_flops())


def _attention_flops(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]  # torch 2.13


def _convolution_flops(x: Any, weight: Any, *rest: Any, out_shape: Any, **more: Any) -> int:
    return int(conv_flop_count(x, weight, out_shape))


def _linear_flops(x: Any, weight: Any, *rest: Any, **more: Any) -> int:
    return int(2 * math.prod(x) * weight[0])
