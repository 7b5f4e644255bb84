"""Measures everything that needs a GPU, in the minutes given; ``infra/benchmarks/gpu.sh`` calls it.

    infra/benchmarks/gpu.sh 30                       # every size, into infra/benchmarks/gpu
    infra/benchmarks/gpu.sh 10 --sizes sd15 sdxl
    infra/benchmarks/gpu.sh 10 --sizes mine=/models/mine --device cuda

Each step is a process with a share of the minutes that are left, and leaves one JSON in the folder.
A step whose JSON is there is skipped, so the same command goes on where it was ended: after a lack
of time, an error or a kill. What a step measured before it was cut short is in ``unfinished/``.
Ray and pytest are used if they are there.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
# Of the minutes left a step gets its share of these, and up to twice that, since most need less. It
# gets at least as long as it takes to start.
WEIGHTS = {
    "machine": 1,
    "tests": 3,
    "model": 2,
    "stages": 3,
    "plain": 6,
    "compiled": 6,
    "peers": 5,
}
GENEROUS = 2.0
AT_LEAST_S = 40.0
SHORTEST_S = 5.0  # no step is started with less
KINDS = ("model", "stages", "plain", "compiled", "peers")  # for each size
SHORT = ("method.steps=10", "method.mask.num_noises=2")


@dataclass(frozen=True)
class Size:
    """A size of network, and the work that it gets: less for larger ones."""

    name: str
    model: str
    edits: int
    baseline_edits: int = 4
    overrides: tuple[str, ...] = ()


SIZES = {
    "sd15": Size("sd15", "random:sd15", 64, 8),
    "sdxl": Size("sdxl", "random:sdxl", 16, overrides=("model.size=1024",)),
    "sd3": Size("sd3", "random:sd3", 16, overrides=("model.size=1024", *SHORT)),
    "flux": Size("flux", "random:flux", 8, overrides=("model.size=1024", *SHORT)),
}


@dataclass(frozen=True)
class Step:
    """A step by its kind, for a size or for the machine."""

    kind: str
    size: Size | None = None

    @property
    def name(self) -> str:
        return self.kind if self.size is None else f"{self.size.name}_{self.kind}"


def main(words: Sequence[str] | None = None) -> int:
    """Runs the steps; returns 0 if all are done, else 1."""
    options = parse_arguments(words)
    if options.task is not None:
        return run_task(options.task)
    (options.out / "unfinished").mkdir(parents=True, exist_ok=True)
    steps = steps_of([size_of(text, options) for text in options.sizes], options.skip)
    run_steps(steps, options)
    report = summary(options.out, steps)
    (options.out / "summary.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0 if not report["not_done"] else 1


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gpu")
    parser.add_argument("--models", type=Path, default=Path("/tmp/overpaint-models"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try it")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument(
        "--sizes", nargs="+", default=list(SIZES), help=f"of {', '.join(SIZES)}, or NAME=FOLDER"
    )
    parser.add_argument("--skip", nargs="*", default=[], choices=WEIGHTS, help="kinds of steps")
    parser.add_argument("--edits", type=int, help="of a run, instead of each size's own")
    parser.add_argument("--keep", action="store_true", help="keep the random networks' folders")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="of the config")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def size_of(text: str, options: argparse.Namespace) -> Size:
    """A size by its name, or a folder's.

    Raises:
        SystemExit: no such size.
    """
    name, _, folder = text.partition("=")
    if not folder and name not in SIZES:
        raise SystemExit(f"--sizes {text}: allowed are {', '.join(SIZES)} or NAME=FOLDER")
    size = SIZES[name] if not folder else Size(name, folder, 16)
    edits = options.edits or size.edits
    baseline = min(size.baseline_edits, edits)
    return Size(name, size.model, edits, baseline, (*size.overrides, *options.set))


def steps_of(sizes: Sequence[Size], skip: Sequence[str] = ()) -> list[Step]:
    """The steps in their order: the machine, its tests, then each size, small ones first."""
    steps = [Step("machine"), Step("tests")]
    steps += [Step(kind, size) for size in sizes for kind in KINDS]
    drawn = [step for step in steps if step.kind != "model" or _is_random(step.size)]
    return [step for step in drawn if step.kind not in skip]


def run_steps(steps: Sequence[Step], options: argparse.Namespace) -> None:
    """Runs what is not done, as long as there is time; stops if the machine does not serve."""
    deadline = time.monotonic() + 60.0 * options.minutes
    for number, step in enumerate(steps):
        if done_path(options.out, step).exists():
            print(f"{step.name}: done before", flush=True)
            continue
        left_s = deadline - time.monotonic()
        rest = [each for each in steps[number:] if not done_path(options.out, each).exists()]
        share = WEIGHTS[step.kind] / sum(WEIGHTS[each.kind] for each in rest)
        limit_s = min(left_s, max(AT_LEAST_S, GENEROUS * share * left_s))
        if left_s < SHORTEST_S:
            print(f"{step.name}: left out, no time left", flush=True)
            continue
        is_done = run_one(step, limit_s, options)
        if step.kind == "machine" and not is_done:
            return
        if step.kind == KINDS[-1] and _is_random(step.size) and not options.keep:
            discard(step, steps, options)


def run_one(step: Step, limit_s: float, options: argparse.Namespace) -> bool:
    """Runs a step in a process of its own; returns whether its JSON is there."""
    unfinished = options.out / "unfinished"
    task: dict[str, Any] = {
        "parent": os.getpid(),
        "kind": step.kind,
        "out": str(unfinished / f"{step.name}.json"),
        "device": options.device,
        "dtype": options.dtype,
        "limit_s": limit_s,
        "models": str(options.models),
    }
    if step.size is not None:
        task |= {key: value for key, value in asdict(step.size).items() if key != "name"}
    log = unfinished / f"{step.name}.log"
    start = time.monotonic()
    words = [sys.executable, "-m", "infra.benchmarks.gpu", "--task", json.dumps(task)]
    print(f"{step.name}: at most {limit_s:.0f} s", flush=True)
    with log.open("w") as output:
        child = subprocess.Popen(words, stdout=output, stderr=output, cwd=REPOSITORY)
        try:
            code: int | None = child.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            child.kill()
            child.wait()
    seconds = time.monotonic() - start
    if code != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        why = "out of time" if code is None else f"failed with {code}"
        print(f"{step.name}: {why} after {seconds:.0f} s; {log}: {(lines or [''])[-1]}", flush=True)
        return False
    Path(task["out"]).replace(done_path(options.out, step))
    log.unlink()
    print(f"{step.name}: {seconds:.0f} s", flush=True)
    return True


def run_task(task: dict[str, Any]) -> int:
    """A step, in its own process, which ends with the one that started it.

    Else the step of a killed run would write beside that of the run that resumes it.
    """
    parent = task.pop("parent")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before that call
        return 1
    from infra.benchmarks.gpu_steps import Task, run_step

    run_step(Task(**{**task, "overrides": tuple(task.get("overrides", ()))}))
    return 0


def discard(step: Step, steps: Sequence[Step], options: argparse.Namespace) -> None:
    """Removes a random network's folder, once all steps of its size are done."""
    own = [each for each in steps if each.size == step.size]
    if step.size is not None and all(done_path(options.out, each).exists() for each in own):
        name = f"{step.size.model.replace(':', '_')}_{options.dtype}"
        shutil.rmtree(options.models / name, ignore_errors=True)


def done_path(out: Path, step: Step) -> Path:
    """The JSON of a step; it exists once the step is done."""
    return out / f"{step.name}.json"


def summary(out: Path, steps: Sequence[Step]) -> dict[str, Any]:
    """The figures of all steps in short, and which steps are not done."""
    found = {step.name: _read(done_path(out, step)) for step in steps}
    sizes = dict.fromkeys(step.size.name for step in steps if step.size is not None)
    return {
        "not_done": [name for name, report in found.items() if report is None],
        "skipped": {
            name: report["skipped"]
            for name, report in found.items()
            if report is not None and isinstance(report.get("skipped"), str)
        },
        "sizes": {name: figures_of(name, found) for name in sizes},
    }


def figures_of(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """A size's rates, ratios, utilisation, peaks of memory and shares of the handover."""
    figures: dict[str, Any] = {}
    for kind in ("plain", "compiled", "peers"):
        report = found.get(f"{name}_{kind}") or {}
        runs = report.get("runs", {})
        figures[kind] = {"ratio": report.get("ratio")} | {
            run: round(each["edits_per_s"]["median"], 3) for run, each in runs.items()
        }
    stages = (found.get(f"{name}_stages") or {}).get("stages", {})
    for key in ("mfu_of_measured_rate", "mfu_of_published_rate", "memory_peak_bytes"):
        figures[key] = {stage: each[key] for stage, each in stages.items()}
    figures["handover_share"] = {stage: each["handover_share"] for stage, each in stages.items()}
    return figures


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _is_random(size: Size | None) -> bool:
    return size is not None and size.model.startswith("random:")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the step too
    sys.exit(main())
