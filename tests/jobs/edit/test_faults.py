"""What goes wrong in a worker costs its own part and nothing else, and can be tried again."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import ROOT, Job
from tests.jobs.faulty import install
from tests.samples import raw_sample, write_shard

pytestmark = pytest.mark.slow
Digests = Callable[[Path], dict[str, str]]

LIMIT_S = 4
KINDS = {
    "raise": "RuntimeError",
    "exit": "SystemExit",
    "memory": "MemoryError",
    "die": "PartLost",
    "hang": "TimedOut",
}
READ = ("raise-read", "exit-read", "memory-read", "die-read", "hang-read")
HEALTHY = [f"healthy{number}" for number in range(6)]


def expected(stages: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """By key, one part each: what its rows must say.

    A fault of "write" strikes when the part is staged.
    """
    steps = ("prepare", *stages, "finish")
    found = {f"{fault}-{step}": (step, KINDS[fault]) for fault in KINDS for step in steps}
    lost = {
        f"{fault}-write": ("commit", "PartLost") for fault in ("raise", "exit", "memory", "die")
    }
    return found | lost | {"hang-write": ("commit", "TimedOut")}


@dataclasses.dataclass(frozen=True)
class Run:
    """A job with a fault of every kind at every step, and the same one without."""

    stages: tuple[str, ...]  # those with faults; all stages take the same way
    expected: dict[str, tuple[str, str]]
    job: Job
    shards: str
    output: Path
    disturbed: subprocess.CompletedProcess[str]
    undisturbed: Path

    def again(self, *more: str) -> subprocess.CompletedProcess[str]:
        env = install(self.output.parent / "site", faults=False)
        return self.job.run(self.output, self.shards, *OVERRIDES, *more, **env)


OVERRIDES = (
    *("run.part_size=1", "model.device=cpu", "run.num_cpus=2"),
    *("run.max_task_retries=0", f"run.part_timeout_s={LIMIT_S}"),
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("encode",), id="one stage"),
        pytest.param(("mask", "encode", "decode"), id="all stages", marks=pytest.mark.sweep),
    ],
)
def run(request: pytest.FixtureRequest, job: Job, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Parts of one edit; prepare's faults, which Ray meets as it reads, have a shard of theirs."""
    folder = tmp_path_factory.mktemp("faults")
    stages, wanted = request.param, expected(request.param)
    keys = sorted([*wanted, *HEALTHY], key=lambda key: hashlib.sha256(key.encode()).digest())
    write = lambda name, keys: write_shard(  # noqa: E731
        folder / f"in/{name}.tar", [raw_sample(key, ["a cat"], seed=1) for key in keys]
    )
    write("main", [key for key in keys if "prepare" not in key])
    write("prepare", [key for key in keys if "prepare" in key and "raise" not in key] + ["after"])
    write("stays", ["raise-prepare", "other"])
    for key in READ:
        write(key, [key])
    shards = f"input.shards={folder}/in/*.tar"
    clean = folder / "clean"
    run_plain(folder, job.arguments(clean, shards, *OVERRIDES))
    output = folder / "out"
    disturbed = job.run(output, shards, *OVERRIDES, **install(folder / "site"))
    return Run(stages, wanted, job, shards, output, disturbed, clean)


def run_plain(folder: Path, arguments: list[str]) -> None:
    """Runs the local loop as a process, without faults."""
    env = os.environ | install(folder / "site", faults=False)
    plain = [sys.executable, "-m", "tests.jobs.plain", *arguments[1:]]
    subprocess.run(plain, cwd=ROOT, env=env, check=True)


def rows_of(output: Path) -> dict[str, dict[str, Any]]:
    files = output.glob("*.parquet")
    return {row["key"]: row for file in files for row in pq.read_table(file).to_pylist()}


def test_every_fault_fails_its_own_part_alone(run: Run) -> None:
    """Exceptions, exits, deaths, hangs: each row names step and kind, all others are right."""
    rows, clean = rows_of(run.output), rows_of(run.undisturbed)
    wanted = run.expected
    found = {key: (rows[key]["stage"], rows[key]["error"]) for key in wanted if key in rows}
    assert found == wanted, run.disturbed.stderr
    others = {key: row for key, row in clean.items() if key not in {*wanted, *READ}}
    assert {key: rows[key] for key in others} == others
    assert set(rows) == {*wanted, *others}
    for key in wanted:
        if key.startswith("hang"):
            assert rows[key]["message"] == f"timed out after {LIMIT_S} s, also when retried alone"
    unread = [f"{key}: an input of the run, but not published; run again" for key in sorted(READ)]
    assert verify(Store(str(run.output))).problems == unread


def test_a_shard_whose_reader_is_lost_stays_unpublished_and_is_named(run: Run) -> None:
    """Exit code 1 and a line for each; nobody knows its samples, so it can have no rows."""
    assert run.disturbed.returncode == 1
    for key, reason in {
        "raise-read": "reading it raised RuntimeError: planted",
        "exit-read": "reading it raised RuntimeError: sys.exit(3) in an operator",
        "memory-read": "reading it raised MemoryError: planted",
        "die-read": "reading it died",
        "hang-read": f"reading it timed out after {LIMIT_S} s",
    }.items():
        assert f"shard {key} stays unpublished: {reason}" in run.disturbed.stderr
    for stage in run.stages:
        assert f"{stage} timed out after {LIMIT_S} s; its worker was killed" in run.disturbed.stderr
    assert "Traceback" not in run.disturbed.stderr


def test_retry_failed_ends_in_the_bytes_of_an_undisturbed_run(run: Run, digests: Digests) -> None:
    """Under Ray, without the faults: every failed row is computed; what prepare refused stays."""
    before = digests(run.output)
    done = run.again("--retry-failed")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "2 published shards have failed edits to recompute" in done.stdout
    after, clean = digests(run.output), digests(run.undisturbed)
    assert {name: after[name] for name in after if "stays" not in name} == {
        name: clean[name] for name in clean if "stays" not in name
    }
    assert after["stays.parquet"] == before["stays.parquet"] != clean["stays.parquet"]
    assert not verify(Store(str(run.output))).problems
    assert not list(run.output.glob("_parts/**/*.arrow"))


def test_neighbors_of_a_hostile_sample_are_computed(job: Job, tmp_path: Path) -> None:
    """In one part with samples that hang or kill in prepare and finish: only these fail."""
    wanted = {
        "hang-prepare": ("prepare", "TimedOut"),
        "die-prepare": ("prepare", "PartLost"),
        "hang-finish": ("finish", "TimedOut"),
    }
    keys = [*HEALTHY[:2], "hang-prepare", "healthy2", "die-prepare", "hang-finish", "healthy3"]
    write_shard(tmp_path / "in/main.tar", [raw_sample(key, ["a cat", "a dog"]) for key in keys])
    overrides = (f"input.shards={tmp_path}/in/*.tar", *OVERRIDES, "run.part_size=64")
    run_plain(tmp_path, job.arguments(tmp_path / "clean", *overrides))
    env = install(tmp_path / "site")
    disturbed = job.run(tmp_path / "out", *overrides, **env)
    assert disturbed.returncode == 0, disturbed.stderr
    rows = pq.read_table(tmp_path / "out/main.parquet").to_pylist()
    clean = pq.read_table(tmp_path / "clean/main.parquet").to_pylist()
    found = {row["key"]: (row["stage"], row["error"]) for row in rows if row["status"] == "failed"}
    assert found == wanted, disturbed.stderr
    others = [row for row in clean if row["key"] not in wanted]
    assert [row for row in rows if row["key"] not in wanted] == others
    words = f"sample hang-prepare in part 0 of shard main: prepare timed out after {LIMIT_S} s"
    assert words in disturbed.stderr
