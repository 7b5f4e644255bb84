"""Measures the memory of the readers and writers of ``overpaint edit`` with large shards.

    python -m infra.benchmarks.readers --out infra/benchmarks/readers.json

Makes shards of noise, runs SDEdit in few steps over them, and stops the run once some shards are
published. Meanwhile it samples the memory of the run's own processes: the private pages of each
reader and each writer, without Ray's shared memory. A sample has a small image, which is edited,
and a large one, which is passed through: so a published shard is as large as the one that was read.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from infra.benchmarks.startup import ROOT, environment, stop
from jobs.benchmark.machine import describe_machine
from pipeline.storage.tar_write import SampleTar

SETTINGS = ("method.name=sdedit", "method.steps=2", "report.enabled=false", "plan.calibrate=never")
# What Ray calls a process while it runs the operator.
ROLES = {"readers": "_read", "writers": "_finish"}
MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")
SHARED = ("/dev/shm", "plasma")
SMALL = 128  # pixels a side of the image that is edited
DISTINCT = 8  # large images of noise that the samples of a shard repeat
POLL_S, LIMIT_S = 0.1, 1800.0


@dataclass
class Peaks:
    """The highest memory of a role's processes, in bytes."""

    together: int = 0
    one: int = 0
    processes: int = 0  # at once, at most

    def add(self, sizes: list[int]) -> None:
        """One sample: the bytes of each process of the role."""
        self.together = max(self.together, sum(sizes))
        self.one = max(self.one, *sizes, 0)
        self.processes = max(self.processes, len(sizes))


@dataclass
class Measured:
    """What one run shows."""

    peaks: dict[str, Peaks] = field(default_factory=lambda: {role: Peaks() for role in ROLES})
    first_part_s: float | None = None
    first_published_s: float | None = None
    begun_at_first: int | None = None  # shards with a staged part, the published one among them
    published: int = 0


def main() -> None:
    """Makes the shards, runs over them, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--images", type=int, default=200, help="in a shard")
    parser.add_argument(
        "--side", type=int, default=816, help="of the large image of a sample; 816 make 2 MB"
    )
    parser.add_argument("--published", type=int, default=2, help="shards until the run is stopped")
    parser.add_argument("--part-sizes", type=int, nargs="+", default=[16, 64], help="in turn")
    parser.add_argument("--other", type=Path, help="another checkout, whose command runs as well")
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", help="of configs/demo.yaml")
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "machine": describe_machine("cpu", 1),
        "overrides": arguments.overrides,
        "shards": arguments.shards,
        "images": arguments.images,
        "runs": [],
    }
    checkouts = {"this": ROOT} | ({"other": arguments.other.resolve()} if arguments.other else {})
    with tempfile.TemporaryDirectory(prefix="overpaint-readers-") as home:
        folder = Path(home) / "in"
        report["shard_bytes"] = write_shards(
            folder, arguments.shards, arguments.images, arguments.side
        )
        for part_size, (name, checkout) in itertools.product(
            arguments.part_sizes, checkouts.items()
        ):
            overrides = [*arguments.overrides, f"run.part_size={part_size}"]
            with tempfile.TemporaryDirectory(dir=home, prefix="out-") as output:
                found = measure(checkout, folder, Path(output), overrides, arguments.published)
            report["runs"].append({"checkout": name, "part_size": part_size, **asdict(found)})
            print(json.dumps(report["runs"][-1]), flush=True)
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def write_shards(folder: Path, shards: int, images: int, side: int) -> int:
    """Writes shards of noise, which no format compresses; returns the bytes of one."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    small = _noise(random, SMALL)
    files = [_noise(random, side) for _ in range(min(DISTINCT, images))]
    for shard in range(shards):
        tar = SampleTar()
        for number in range(images):
            large = files[number % len(files)]
            members = {"png": small, "raw.png": large, "txt": b"a dog", "edit.txt": b"a cat"}
            tar.add(f"{shard}{number:05d}", members)
        (folder / f"{shard:05d}.tar").write_bytes(tar.getvalue())
    return (folder / "00000.tar").stat().st_size


def _noise(random: np.random.Generator, side: int) -> bytes:
    sink = io.BytesIO()
    pixels = random.integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def measure(
    checkout: Path, shards: Path, output: Path, overrides: list[str], published: int
) -> Measured:
    """Runs the command until so many shards are published, or it ends.

    Args:
        checkout: whose command runs.
        shards: the folder of the input.
        output: the folder of the output, empty.
        overrides: of ``configs/demo.yaml``.
        published: shards.

    Raises:
        RuntimeError: the run failed, or published nothing in half an hour.
    """
    places = [f"input.shards={shards}/*.tar", f"output.path={output}"]
    command = [sys.executable, "-m", "jobs.cli", "edit", "demo", *places, *SETTINGS]
    measured, start = Measured(), time.perf_counter()
    process = subprocess.Popen(
        [*command, *overrides], cwd=checkout, env=environment(checkout), stdout=subprocess.DEVNULL
    )
    try:
        while process.poll() is None and measured.published < published:
            spent = time.perf_counter() - start
            if spent > LIMIT_S:
                raise RuntimeError(f"{measured.published} shards are published in {spent:.0f} s")
            for role, sizes in sizes_by_role(process.pid).items():
                measured.peaks[role].add(sizes)
            look(output, measured, spent)
            time.sleep(POLL_S)
        look(output, measured, time.perf_counter() - start)
        if not measured.published:
            raise RuntimeError(f"no shard is published; the run ended with {process.returncode}")
    finally:
        stop(process)
    return measured


def look(output: Path, measured: Measured, spent: float) -> None:
    """Notes what the output holds after so many seconds."""
    markers = {path.name.removesuffix("_stats.json") for path in output.glob("*_stats.json")}
    staged = {path.parent.name for path in output.glob("_parts/*/*-of-*.arrow")}
    measured.published = len(markers)
    if (staged or markers) and measured.first_part_s is None:
        measured.first_part_s = round(spent, 1)
    if markers and measured.first_published_s is None:
        measured.first_published_s = round(spent, 1)
        measured.begun_at_first = len(staged | markers)


def sizes_by_role(root: int) -> dict[str, list[int]]:
    """The private bytes of each process below ``root`` that reads or writes now."""
    found: dict[str, list[int]] = {role: [] for role in ROLES}
    for pid in descendants(root):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            for role, operator in ROLES.items():
                if title.startswith("ray::") and operator in title:
                    lines = Path(f"/proc/{pid}/smaps").read_text(errors="replace").splitlines()
                    found[role].append(private_bytes(lines))
        except OSError:  # the process has ended
            continue
    return found


def descendants(root: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text(errors="replace").rpartition(")")[2]
        except OSError:
            continue
        children.setdefault(int(after_name.split()[1]), []).append(int(folder.name))
    found, waiting = [], [root]
    while waiting:
        own = children.get(waiting.pop(), [])
        found += own
        waiting += own
    return found


def private_bytes(smaps: Iterable[str]) -> int:
    """The pages that only this process has, of the lines of its ``smaps``; no shared memory."""
    total, is_shared = 0, False
    for line in smaps:
        if MAPPING.match(line):
            is_shared = any(name in line for name in SHARED)
        elif line.startswith("Private_") and not is_shared:
            total += int(line.split()[1]) * 1024
    return total


if __name__ == "__main__":
    main()
