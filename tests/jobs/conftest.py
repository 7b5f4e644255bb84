"""A small dataset, a small model, and the command as users run it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.jobs.faulty import LOADS, WARNS, install
from tests.samples import raw_sample, write_shard

ROOT = Path(__file__).resolve().parents[2]
# Ray listens on 127.0.0.1 alone, and a driver takes that for the address of its host.
LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
EDIT_TEXTS = ("a cat", "a red dog", "a blue photo of a cat")


@dataclass(frozen=True)
class Job:
    """How to run the job of these tests: common overrides for every run, plus a test's own."""

    folder: Path
    overrides: tuple[str, ...]

    def arguments(self, output: Path, *more: str) -> list[str]:
        config = self.folder / "job.yaml"
        return ["edit", str(config), f"output.path={output}", *self.overrides, *more]

    def command(self, output: Path, *more: str) -> list[str]:
        return [sys.executable, "-m", "jobs.cli", *self.arguments(output, *more)]

    def run(self, output: Path, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(output, *more),
            cwd=ROOT,
            env=os.environ | dict([LOOPBACK]) | env,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def start(self, output: Path, *more: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(output, *more),
            cwd=ROOT,
            env=os.environ | dict([LOOPBACK]) | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Job:
    """Three shards of 20 edits in all (five fail or change nothing), in parts of four."""
    folder = tmp_path_factory.mktemp("job")
    for number in range(3):
        samples = [
            raw_sample(f"{number}{place}", EDIT_TEXTS[: 1 + place % 3], seed=10 * number + place)
            for place in range(3)
        ]
        samples.append(raw_sample(f"{number}same", ["a dog"], caption="a dog", seed=number))
        write_shard(folder / f"in/{number:05d}.tar", samples)
    write_shard(folder / "in/00001.tar", [raw_sample("broken", png=b"not an image"), *samples])
    (folder / "job.yaml").write_text(
        f"input: {{shards: {folder}/in/*.tar}}\n"
        "output: {path: given below, format: png, difference_map: true}\n"
        f"model: {{path: {tiny_model_folder}, size: 32, device: cpu, dtype: float32}}\n"
        "method: {steps: 6, mask: {num_noises: 2}}\n"
        # sizes that need no calibration
        "stages: {mask: {actors: 1}, encode: {actors: 1}, decode: {actors: 1}}\n"
        "run: {layout: pools, part_size: 4, progress_every_s: 0.1, grace_s: 60}\n"
    )
    return Job(folder, ())


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """sha256 of every tar and Parquet file of an output, by relative path."""

    def measure(output: Path) -> dict[str, str]:
        files = [*output.rglob("*.tar"), *output.rglob("*.parquet")]
        return {
            str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(files)
        }

    return measure


@pytest.fixture(scope="session")
def plain(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the local loop, which every other way of running must equal."""
    from pipeline.config.load import load_config
    from pipeline.execution.local_loop import run_loop
    from pipeline.plan.plan import make_plan

    output = tmp_path_factory.mktemp("plain") / "out"
    config = load_config(job.folder / "job.yaml", [f"output.path={output}"])
    assert not run_loop(make_plan(config, "cpu")).work
    return output


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A Ray of two CPUs for the runs that need none of their own (``run.address``)."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*LOOPBACK)
        cluster = Cluster(initialize_head=True, head_node_args=node)
    yield cluster.address
    cluster.shutdown()


@dataclass(frozen=True)
class Recovered:
    """A run on Ray with JSON lines, whose mask actor dies twice while it loads."""

    done: subprocess.CompletedProcess[str]
    output: Path
    worker_lines: list[str]  # everything that its workers have logged


@pytest.fixture(scope="session")
def recovered(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Recovered:
    """Runs the three shards of ``job`` in parts of one edit, with stages that need no torch."""
    folder = tmp_path_factory.mktemp("recovered")
    overrides = (
        *("run.part_size=1", "run.max_start_retries=2", "run.log_format=json"),
        *("model.device=cpu", "run.num_cpus=2"),
    )
    env = install(folder / "site", faults=False)
    env |= {LOADS: f"die 2 {folder / 'site'}", WARNS: "1"}
    with tempfile.TemporaryDirectory(prefix="op-") as ray:  # short, for the paths of Ray's sockets
        done = job.run(folder / "out", *overrides, **env, RAY_TMPDIR=ray)
        files = sorted(Path(ray).glob("ray/session_2*/logs/worker-*.*"))  # .err and .out
        lines = [line for file in files for line in file.read_text().splitlines()]
    return Recovered(done, folder / "out", lines)
