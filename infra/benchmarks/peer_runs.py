"""One run of a side of ``peers.py``: ``overpaint edit`` or the script, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.benchmarks.timed_edit import Part
from pipeline.config.model import Model
from pipeline.models.model_files import locate_model

Run = dict[str, Any]  # what ``rates`` returns
CONFIG = "demo"  # its sampler and outputs; the options below replace what both sides share
LONGEST_S = 3600.0  # of a run; then it hangs
REPOSITORY = Path(__file__).resolve().parents[2]


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
