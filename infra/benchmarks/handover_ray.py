"""Measures how long an actor's computing thread waits between two parts, on a Ray of this machine.

    python -m infra.benchmarks.handover_ray --out infra/benchmarks/handover_ray.json

The graph of a run in layout fused with one actor, whose stages only sleep, over parts of random
arrays in the shapes of a model. Everything on the way is real: unpacking, packing, and Ray's shared
memory. The first parts, which wait for readers, are not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from infra.benchmarks.handover import SHAPES, arrays_of, drawn_part
from infra.benchmarks.simulate import Simulation, run_simulation
from jobs.benchmark.machine import describe_machine
from pipeline.config.load import parse_config
from pipeline.execution.operators import Flow
from pipeline.plan.plan import ShardWork
from pipeline.records.part import Part

WARM_UP = 4  # parts, until readers are ahead


@dataclass(frozen=True)
class Filled(Simulation):
    """A simulation whose parts have the arrays of a model's."""

    shape: str = "sd15"
    edits: int = 64

    def flow(self) -> Flow:
        """The steps of a part; reading draws the arrays once."""
        return replace(super().flow(), read=partial(_read, self.shape, self.edits, self.parts))


def main() -> None:
    """Runs each shape once and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["sd15"])
    parser.add_argument("--parts", type=int, default=16)
    parser.add_argument("--edits", type=int, default=64)
    parser.add_argument("--stage-s", type=float, default=2.0, help="computing of a part")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    import ray

    from jobs.edit.graph import configure_context

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    configure_context()
    report: dict[str, Any] = {"machine": describe_machine("cpu", 1), "runs": []}
    for shape in arguments.shapes:
        found = measured(shape, arguments.edits, arguments.parts, arguments.stage_s)
        report["runs"].append(found)
        print(json.dumps(found), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def measured(shape: str, edits: int, parts: int, stage_s: float) -> dict[str, Any]:
    """Seconds between the end of a part's stages and the begin of the next one's."""
    with tempfile.TemporaryDirectory() as spans:
        simulation = Filled(1, parts, {"decode": stage_s}, spans, shape, edits)
        tree = {
            "input": {"shards": "simulated"},
            "output": {"path": "nowhere"},
            "run": {"layout": "fused", "readers": 1, "part_size": edits},
            "stages": {"decode": {"actors": 1}},
        }
        run_simulation(simulation, parse_config(tree))
        begun, ended = (_times(Path(spans), *which) for which in (("mask", 0), ("decode", 1)))
    waits = [start - end for start, end in zip(begun[1:], ended[:-1], strict=True)][WARM_UP:]
    wait_s = statistics.median(waits)
    return {
        "shape": shape,
        "part_bytes": sum(array.nbytes for array in arrays_of(drawn_part(SHAPES[shape], 1, "")))
        * edits,
        "stages_s": stage_s,
        "waits_s": [round(wait, 4) for wait in waits],
        "median_wait_s": round(wait_s, 4),
        "share_of_the_thread": round(wait_s / (wait_s + stage_s), 4),
    }


def _times(folder: Path, stage: str, column: int) -> list[float]:
    (file,) = folder.glob(f"{stage}-*")
    return [float(line.split()[column]) for line in file.read_text().splitlines()]


def _read(shape: str, edits: int, num_parts: int, work: ShardWork) -> Iterator[Part]:
    part = drawn_part(SHAPES[shape], edits, "apart")  # as prepare makes it
    for index in range(num_parts):
        yield replace(part, shard=work.shard.name, index=index, num_parts=num_parts, seconds={})


if __name__ == "__main__":
    main()
