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
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from infra.benchmarks.peer_runs import (
    CONFIG,
    Run,
    Work,
    overpaint_overrides,
    run_overpaint,
    run_script,
)
from jobs.benchmark.machine import describe_machine
from jobs.benchmark.work import draw_samples, write_input
from pipeline.config.load import load_config

BATCHES = {"sdedit": 16, "diffedit": 16, "imagic": 4}  # of the script, where none is given


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
