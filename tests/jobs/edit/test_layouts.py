"""The whole job on Ray: equal bytes in every layout, and no loss when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import make_plan
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import Job
from tests.samples import encode, pixels, raw_sample, write_shard

pytestmark = pytest.mark.slow
Digests = Callable[[Path], dict[str, str]]


def staged(output: Path) -> list[Path]:
    return [*output.glob("_parts/**/*.arrow"), *output.glob("*_stats.json")]


def wait_for_first_part(process: subprocess.Popen[str], output: Path) -> None:
    deadline = time.monotonic() + 120
    while not staged(output):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, "no part was staged in two minutes"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "overrides",
    [
        # one actor per stage: test_planned_runs.py; two: test_scores.py; fused: as a submitted job
        pytest.param(["run.layout=pools"], marks=pytest.mark.sweep),
        pytest.param(
            ["run.layout=pools", "stages.decode.actors=2", "stages.mask.actors=2"],
            marks=pytest.mark.sweep,
        ),
        pytest.param(["run.layout=fused", "stages.decode.actors=2"], marks=pytest.mark.sweep),
    ],
    ids=["pools", "two actors", "fused"],
)
def test_bytes_do_not_depend_on_the_layout(
    overrides: list[str],
    job: Job,
    plain: Path,
    digests: Digests,
    tmp_path: Path,
    ray_address: str,
) -> None:
    """One actor per stage, two, and fused actors write the same bytes as the local loop."""
    done = job.run(tmp_path / "out", f"run.address={ray_address}", *overrides)
    assert done.returncode == 0, done.stderr + done.stdout
    assert digests(tmp_path / "out") == digests(plain)
    assert len(digests(plain)) == 6
    assert not (tmp_path / "out/_parts").exists() or not list((tmp_path / "out/_parts").rglob("*"))
    report = verify(Store(str(tmp_path / "out")))
    assert not report.problems


@pytest.mark.sweep  # tests/execution/test_buckets.py resumes such a run without Ray
def test_images_of_several_sizes_do_not_depend_on_the_layout(
    job: Job, digests: Digests, tmp_path: Path, ray_address: str
) -> None:
    """Two actors a stage write the bytes of the local loop."""
    shapes = ((48, 64), (64, 48), (20, 90), (40, 40), (48, 64), (90, 20))
    for number in range(2):
        samples = [
            raw_sample(f"{number}{place}") | {"png": encode(pixels(place, *shape))}
            for place, shape in enumerate(shapes)
        ]
        write_shard(tmp_path / f"in/{number}.tar", samples)
    overrides = [f"input.shards={tmp_path}/in/*.tar", "model.buckets=auto"]
    config = load_config(job.folder / "job.yaml", [*overrides, f"output.path={tmp_path}/plain"])
    assert not run_loop(make_plan(config, "cpu")).work
    overrides += ["run.layout=pools", "stages.decode.actors=2", "stages.mask.actors=2"]
    done = job.run(tmp_path / "out", f"run.address={ray_address}", *overrides)
    assert done.returncode == 0, done.stderr + done.stdout
    assert digests(tmp_path / "out") == digests(tmp_path / "plain")


def test_the_order_of_shards_does_not_matter(
    job: Job, plain: Path, digests: Digests, tmp_path: Path
) -> None:
    """Shards are sorted before the run."""
    shards = sorted((job.folder / "in").glob("*.tar"), reverse=True)
    places = [f"input.shards=[{', '.join(map(str, shards))}]", f"output.path={tmp_path}/out"]
    plan = make_plan(load_config(job.folder / "job.yaml", places), "cpu")
    assert not run_loop(plan).work
    assert digests(tmp_path / "out") == digests(plain)


@pytest.mark.sweep  # test_killed_runs.py kills drivers with their Ray at two storage calls
def test_a_killed_driver_is_resumed_to_the_same_bytes(
    job: Job, plain: Path, digests: Digests, tmp_path: Path
) -> None:
    """SIGKILL comes after the first staged part."""
    output = tmp_path / "out"
    process = job.start(output, "run.layout=fused")
    wait_for_first_part(process, output)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert digests(output) != digests(plain), "killed too late to show anything"
    done = job.run(output, "run.layout=fused")
    assert done.returncode == 0, done.stderr + done.stdout
    assert digests(output) == digests(plain)


def test_a_finished_run_repeats_in_seconds_and_edits_only_new_shards(
    job: Job, plain: Path, digests: Digests, tmp_path: Path, ray_address: str
) -> None:
    """A second run starts no Ray and changes no byte."""
    output, source = tmp_path / "out", tmp_path / "in"
    source.mkdir()
    for file in (job.folder / "in").glob("*.tar"):
        (source / file.name).write_bytes(file.read_bytes())
    subprocess.run(["cp", "-r", str(plain), str(output)], check=True)
    shards = f"input.shards={source}/*.tar"
    before = {path: path.stat().st_mtime_ns for path in output.glob("0*")}
    start = time.monotonic()
    done = job.run(output, shards)
    assert done.returncode == 0, done.stderr + done.stdout
    assert time.monotonic() - start < 60  # seconds, even on a busy machine, since no Ray starts
    assert {path: path.stat().st_mtime_ns for path in output.glob("0*")} == before

    write_shard(source / "00009.tar", [raw_sample("new", ["a cat"])])
    done = job.run(output, shards, "run.layout=fused", f"run.address={ray_address}")
    assert done.returncode == 0, done.stderr + done.stdout
    summary = json.loads((output / "_run/summary.json").read_text())
    assert summary["edits_computed_now"] == 1
    assert summary["shards"] == {"published": 4, "to_do": 0}
    assert {path: path.stat().st_mtime_ns for path in before} == before
