"""Measures ``overpaint edit`` beside the script that one would write instead, pair by pair.

    python -m infra.benchmarks.peers --method sdedit --out infra/benchmarks/peers_sdedit.json

The script is ``infra/benchmarks/peer_script.py``: Ray Data around a diffusers pipeline. Both edit
the same shards with the same network, dtype, threads, sampler and number of actors, each in a
process of its own, from the command to its end. *Whole* is edits over all of that; *steady* is from
the first finished batch or part to the last one. Ratios are medians over pairs, since the machine's
speed changes; which comes first alternates. ``key=value`` at the end goes to Overpaint.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from infra.benchmarks.timed_edit import Part
from jobs.benchmark.machine import describe_machine
from jobs.benchmark.work import draw_samples, write_input
from pipeline.config.config import Model
from pipeline.config.load import load_config
from pipeline.models.model_files import locate_model

Run = dict[str, Any]
CONFIG = "demo"  # its sampler and outputs; the options below replace what both sides share
LONGEST_S = 3600.0  # of a run; then it hangs
REPOSITORY = Path(__file__).resolve().parents[2]
BATCHES = {"sdedit": 16, "diffedit": 16, "imagic": 4}  # of the script, where none is given


@dataclass(frozen=True)
class Work:
    """What both sides do.

    Attributes:
        method: diffedit, sdedit or imagic.
        model: bundled, or a folder in diffusers' format.
        size: side of the images, in pixels.
        device, dtype, compiled: of the networks.
        actors: of each side. Overpaint's are those of its only pool, or None: as it plans them.
        steps, guidance_scale, ratio: of the sampler; ratio is r or strength.
        fits: Imagic's steps, of the embedding and of the network.
        edits, texts_per_image, shards: of the input.
        batch: edits in a call of the script.
        overrides: of Overpaint alone.
    """

    method: str
    model: str
    size: int
    device: str
    dtype: str
    compiled: bool
    actors: int
    threads: int
    steps: int
    guidance_scale: float
    ratio: float
    fits: tuple[int, int]
    edits: int
    texts_per_image: int
    shards: int
    batch: int
    overrides: tuple[str, ...]


def main() -> None:
    """Measures the pairs, prints the ratios."""
    arguments = vars(parse_arguments())
    out, pairs = arguments.pop("out"), arguments.pop("pairs")
    arguments["batch"] = arguments["batch"] or BATCHES[arguments["method"]]
    for name in ("fits", "overrides"):
        arguments[name] = tuple(arguments[name])
    report = measure_pairs(Work(**arguments), pairs, out)
    print(json.dumps(report["ratio"]))


def measure_pairs(work: Work, pairs: int, out: Path | None) -> dict[str, Any]:
    """The report of some pairs; written after each of them, if ``out`` is a file."""
    measured: list[dict[str, Run]] = []
    with TemporaryDirectory(prefix="overpaint-peers-") as home:
        write_shards(Path(home, "in"), work)
        for number in range(pairs):
            measured.append(measure_pair(Path(home), work, number))
            print(json.dumps(measured[-1]), flush=True)
            report = report_of(work, measured)
            if out is not None:
                out.write_text(json.dumps(report, indent=1) + "\n")
    return report


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", choices=BATCHES, required=True)
    parser.add_argument("--model", default="bundled", help="bundled or a folder")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compile", dest="compiled", action="store_true")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of an actor on a CPU")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", dest="guidance_scale", type=float, default=4.0)
    parser.add_argument(
        "--ratio", type=float, default=0.5, help="r of DiffEdit, strength of SDEdit"
    )
    parser.add_argument("--fits", type=int, nargs=2, default=(20, 30), help="Imagic's steps")
    parser.add_argument("--edits", type=int, default=256)
    parser.add_argument("--texts-per-image", type=int, default=1)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--batch", type=int, help="edits in a call of the script")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of Overpaint alone")
    return parser.parse_intermixed_args(words)


def write_shards(folder: Path, work: Work) -> None:
    """The input: the same number of images in every shard, as far as it divides."""
    folder.mkdir()
    samples = draw_samples(work.edits // work.texts_per_image, work.texts_per_image, work.size)
    for number in range(work.shards):
        write_input(folder / f"{number:05d}.tar", samples[number :: work.shards])


def measure_pair(home: Path, work: Work, number: int) -> dict[str, Run]:
    """One run of each side; which comes first alternates."""
    sides: list[tuple[str, Callable[[Path, Work, int], Run]]] = [
        ("overpaint", run_overpaint),
        ("script", run_script),
    ]
    return {name: run(home, work, number) for name, run in (sides, sides[::-1])[number % 2]}


def run_script(home: Path, work: Work, number: int) -> Run:
    """The script in a process of its own."""
    settings = {
        "model": str(locate_model(Model(path=work.model)).folder),
        "device": work.device,
        "dtype": work.dtype,
        "threads": work.threads,
        "compiled": work.compiled,
        "steps": work.steps,
        "guidance_scale": work.guidance_scale,
        "ratio": work.ratio,
        "embedding_steps": work.fits[0],
        "model_steps": work.fits[1],
    }
    words = ["infra.benchmarks.peer_script", "--method", work.method, "--shards", f"{home}/in"]
    words += ["--out", f"{home}/script-{number}", "--settings", json.dumps(settings)]
    words += ["--actors", str(work.actors), "--batch", str(work.batch)]
    started, seconds, output = timed(words)
    batches = json.loads(output.strip().splitlines()[-1])["batches"]
    return rates([(at, edits) for at, edits in batches], started, seconds)


def run_overpaint(home: Path, work: Work, number: int) -> Run:
    """``overpaint edit`` in a process of its own."""
    out, times = f"{home}/overpaint-{number}", home / f"overpaint-{number}.json"
    overrides = overpaint_overrides(work)
    places = [f"input.shards={home}/in/*.tar", f"output.path={out}"]
    started, seconds, _ = timed(
        ["infra.benchmarks.timed_edit", str(times), CONFIG, *places, *overrides]
    )
    summary = json.loads(Path(out, "_run", "summary.json").read_text())
    parts = [(at, edits) for at, edits in json.loads(times.read_text())]
    return rates(parts, started, seconds) | {"counts": summary["counts"]}


def overpaint_overrides(work: Work) -> list[str]:
    """The settings that both sides share, as Overpaint's keys; its own come last."""
    ratio = {"sdedit": "strength", "diffedit": "encode_ratio", "imagic": None}[work.method]
    words = [
        f"model.path={work.model}",
        f"model.device={work.device}",
        f"model.dtype={work.dtype}",
        'model.compile="default"' if work.compiled else 'model.compile="off"',
        f"model.size={work.size}",
        f"method.name={work.method}",
        f"method.steps={work.steps}",
        f"method.guidance_scale={work.guidance_scale}",
        f"stages.decode.threads={work.threads}",
        "output.format=jpg",
        "output.quality=95",
    ]
    if ratio is not None:
        words.append(f"method.{ratio}={work.ratio}")
    if work.method == "imagic":
        words += [
            "method.imagic.form=full",
            "method.imagic.seeds=1",  # as the script: an image an edit
            f"method.imagic.embedding_steps={work.fits[0]}",
            f"method.imagic.model_steps={work.fits[1]}",
        ]
    return [*words, *work.overrides]


def timed(words: list[str]) -> tuple[float, float, str]:
    """Runs a module of this repository; returns time.time() before, seconds, and what it printed.

    Raises:
        RuntimeError: it fails; holds what it wrote.
        subprocess.TimeoutExpired: it takes longer than ``LONGEST_S``.
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    started, start = time.time(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=LONGEST_S,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{words[0]} ends with {done.returncode}: {done.stdout}{done.stderr}")
    return started, seconds, done.stdout


def rates(finished: Sequence[Part], started: float, seconds: float) -> Run:
    """Whole and steady rates of a run, and what it takes before and after the steady time.

    Args:
        finished: time and number of edits of every part or batch, in the order of time.
        started: time of the command.
        seconds: of the whole process.
    """
    edits = sum(number for _, number in finished)
    first, last = finished[0], finished[-1]
    span_s = last[0] - first[0]
    steady = (edits - first[1]) / span_s if span_s > 0 else None
    return {
        "edits": edits,
        "seconds": round(seconds, 2),
        "whole_per_s": round(edits / seconds, 4),
        "steady_per_s": None if steady is None else round(steady, 4),
        "until_first_s": round(first[0] - started, 2),
        "first_to_last_s": round(span_s, 2),
        "after_last_s": round(started + seconds - last[0], 2),
        "load_average": round(os.getloadavg()[0], 2),
    }


def report_of(work: Work, pairs: Sequence[dict[str, Run]]) -> dict[str, Any]:
    """The pairs, and medians over them of Overpaint's rates divided by the script's."""
    names = {"steady": "steady_per_s", "whole": "whole_per_s"}
    ratios = {
        name: [pair["overpaint"][key] / pair["script"][key] for pair in pairs if _has(pair, key)]
        for name, key in names.items()
    }
    config = load_config(CONFIG, ["input.shards=in", "output.path=out", *overpaint_overrides(work)])
    return {
        "work": vars(work),
        "machine": describe_machine(work.device, work.threads),
        "config": config.model_dump(mode="json", include={"method", "stages"}),
        "ratio": {
            name: round(statistics.median(found), 3) for name, found in ratios.items() if found
        },
        "pairs": list(pairs),
    }


def _has(pair: dict[str, Run], key: str) -> bool:
    return all(pair[side][key] is not None for side in ("overpaint", "script"))


if __name__ == "__main__":
    main()
