"""The steps of the GPU benchmark, each a process of its own that writes one JSON.

``infra/benchmarks/gpu.py`` runs them. A step is a function of ``Task``; what it returns is its
JSON. It may write there before it ends, so that a step that is cut short leaves what it measured.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infra.benchmarks.gpu_stages import stages
from jobs.benchmark.command import BASELINE_FAMILY, Options, benchmark_config, measure
from jobs.benchmark.machine import describe_machine, matrix_rate
from jobs.benchmark.models import model_folder
from pipeline.models.loading import DTYPES
from pipeline.models.probe import probe_model

TESTS = Path(__file__).resolve().parents[2] / "tests"
# Dense rate of matrix products in bfloat16, FLOP/s, as the makers publish it; by a piece of the
# name that torch gives. The first that fits counts.
PUBLISHED_FLOP_PER_S = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "4090": 165e12,
}
QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm,mig.mode.current"


@dataclass(frozen=True)
class Task:
    """What a step is asked to do.

    Attributes:
        kind: a key of ``STEPS``.
        out: the JSON.
        device, dtype: of the networks; device is cuda, or cpu to try the steps.
        limit_s: after which the step is ended.
        model: a name in ``RANDOM`` or a folder; "" for steps without a network.
        models: the folder for random models.
        edits, baseline_edits: of a run, and of a part; multiples of 4.
        overrides: key=value of the config.
    """

    kind: str
    out: str
    device: str
    dtype: str
    limit_s: float
    model: str = ""
    models: str = ""
    edits: int = 4
    baseline_edits: int = 4
    overrides: tuple[str, ...] = ()


def machine(task: Task) -> dict[str, Any]:
    """The hardware, its driver, and its rates of matrix products.

    Raises:
        RuntimeError: the device is cuda, and torch finds no GPU.
    """
    if task.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"--device cuda: torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU; "
            f"nvidia-smi says: {nvidia_smi()}"
        )
    described = describe_machine(task.device, torch.get_num_threads())
    rates = {
        name: matrix_rate(task.device, DTYPES[name])
        for name in dict.fromkeys(("float32", task.dtype))
    }
    return {
        "machine": described,
        "nvidia_smi": nvidia_smi(),
        "matrix_flop_per_s": rates,
        "published_bfloat16_flop_per_s": published_rate(described.get("gpu", "")),
    }


def nvidia_smi() -> str:
    """Its answer to ``QUERY``, or why there is none."""
    words = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return (done.stdout or done.stderr).strip()


def published_rate(gpu: str) -> float | None:
    """The published rate of a GPU by its name; None if it is not in the table."""
    return next((rate for name, rate in PUBLISHED_FLOP_PER_S.items() if name in gpu), None)


def tests(task: Task) -> dict[str, Any]:
    """The tests marked ``gpu``.

    Raises:
        RuntimeError: one fails.
    """
    if task.device != "cuda":
        return {"skipped": "the tests marked gpu need --device cuda"}
    if importlib.util.find_spec("pytest") is None or not TESTS.is_dir():
        return {"skipped": "pytest is not installed, or this is no checkout"}
    import pytest

    files = [
        str(path) for path in sorted(TESTS.rglob("test_*.py")) if "mark.gpu" in path.read_text()
    ]
    outcome: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}

    class Recorder:
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or report.outcome != "passed":
                outcome[report.outcome].append(report.nodeid)

    code = int(pytest.main(["-m", "gpu", "-q", "-p", "no:cacheprovider", *files], [Recorder()]))
    if code:
        raise RuntimeError(f"pytest -m gpu ends with {code}; failed: {outcome['failed']}")
    return dict(outcome)


def model(task: Task) -> dict[str, Any]:
    """Draws the random network on the device and writes it."""
    start = time.perf_counter()
    folder = Path(model_folder(task.model, task.dtype, Path(task.models), task.device))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"seconds": round(time.perf_counter() - start, 1), "bytes": size}


def plain(task: Task) -> dict[str, Any]:
    """The bare loop, the whole loop, and diffusers' DiffEdit where it knows the family; eager."""
    return _loops(task, compiled=False)


def compiled(task: Task) -> dict[str, Any]:
    """The same loops compiled, beside diffusers' compiled too."""
    return _loops(task, compiled=True)


def peers(task: Task) -> dict[str, Any]:
    """``overpaint edit`` beside a script of Ray Data and diffusers, for SDEdit."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        return {"skipped": f"Ray is absent: {error}"}
    from infra.benchmarks.peer_runs import Work
    from infra.benchmarks.peers import measure_pairs

    config, device = benchmark_config(options_of(task, compiled=False))
    info = probe_model(config.model, hash_files=False)
    if info.family != BASELINE_FAMILY:
        return {"skipped": f"the script's pipelines do not know {info.family}"}
    work = Work(
        method="sdedit",
        model=config.model.path,
        size=info.size_for(config.model),
        device=device,
        dtype=config.model.dtype,
        compiled=False,
        actors=1,
        threads=1,
        steps=config.method.steps,
        guidance_scale=config.method.guidance_scale,
        ratio=0.5,
        fits=(0, 0),
        edits=4 * task.edits,
        texts_per_image=1,
        shards=2,
        batch=16,
        overrides=(f"run.part_size={task.edits}",),
    )
    return measure_pairs(work, 1, Path(task.out))


def _loops(task: Task, *, compiled: bool) -> dict[str, Any]:
    start = time.monotonic()
    options = options_of(task, compiled=compiled)
    config, device = benchmark_config(options)
    return measure(options, config, device, start)


def options_of(task: Task, *, compiled: bool) -> Options:
    """The options of ``overpaint benchmark`` that a step measures with."""
    mode = "cuda_graphs" if task.device == "cuda" else "default"
    chosen = (f"model.compile={mode}", f"model.compile_cache={task.models}/compiled")
    return Options(
        model=task.model,
        overrides=(
            f"run.part_size={task.edits}",
            *(chosen if compiled else ()),
            *task.overrides,
        ),
        device=task.device,
        dtype=task.dtype,
        baseline_dtype=None,
        threads=1,
        edits=task.edits,
        baseline_edits=task.baseline_edits,
        repeats=2,
        whole=not compiled,
        compiled=compiled,
        time_limit_s=0.85 * task.limit_s,
        models=Path(task.models),
        sweep=(),
        out=Path(task.out).with_suffix(""),
    )


def _stages(task: Task) -> dict[str, Any]:
    config, device = benchmark_config(options_of(task, compiled=False))
    return stages(config, device, task.edits, published_rate)


STEPS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "machine": machine,
    "tests": tests,
    "model": model,
    "stages": _stages,
    "plain": plain,
    "compiled": compiled,
    "peers": peers,
}


def run_step(task: Task) -> None:
    """Runs a step and writes its JSON."""
    found = STEPS[task.kind](task)
    path = Path(task.out)
    path.write_text(json.dumps(found, indent=1, default=str) + "\n")
