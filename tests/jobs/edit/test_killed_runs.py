"""SIGKILL at any storage call of a run under Ray: the next run ends in the very same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.jobs import killer
from tests.jobs.conftest import ROOT, Job
from tests.jobs.faulty import install
from tests.samples import raw_sample, write_shard

pytestmark = pytest.mark.slow
Digests = Callable[[Path], dict[str, str]]

NUM_KILLS, NUM_RESUMED_BY_RAY, NUM_WORKERS = 10, 2, 5
OVERRIDES = ("run.part_size=2", "model.device=cpu", "run.num_cpus=2", "run.layout=fused")


@dataclass(frozen=True)
class Small:
    """A job of eight parts in three shards, with stages that need no torch."""

    job: Job
    folder: Path
    env: dict[str, str]
    points: list[str]  # the storage calls of an undisturbed run that workers make, in their order

    def arguments(self, output: Path) -> tuple[str, ...]:
        return (f"input.shards={self.folder}/in/*.tar", *OVERRIDES)

    def plain(self, output: Path, **env: str) -> subprocess.Popen[str]:
        """The plain loop in a process of its own."""
        arguments = self.job.arguments(output, *self.arguments(output))[1:]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.plain", *arguments],
            cwd=ROOT,
            env=os.environ | self.env | env,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ray(self, output: Path, **env: str) -> subprocess.CompletedProcess[str]:
        """The command, with a Ray of its own."""
        return self.job.run(output, *self.arguments(output), **self.env, **env)

    def check(self, output: Path, digests: Digests) -> None:
        """The bytes of an undisturbed run, nothing left over, and all of it verified."""
        assert digests(output) == digests(self.folder / "clean")
        names = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
        stems = ("0", "1", "2")
        expected = {f"{s}{end}" for s in stems for end in (".tar", ".parquet", "_stats.json")}
        assert {name for name in names if not name.startswith("_run/")} == expected
        assert not verify(Store(str(output))).problems
        rows = [row for s in stems for row in pq.read_table(output / f"{s}.parquet").to_pylist()]
        assert len(rows) == 15
        assert {row["status"] for row in rows} == {"edited"}


@pytest.fixture(scope="module")
def small(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small")
    for number, num_samples in enumerate((6, 6, 3)):
        samples = [raw_sample(f"{number}{n}", ["a cat"], seed=n) for n in range(num_samples)]
        write_shard(folder / f"in/{number}.tar", samples)
    made = Small(job, folder, install(folder / "site", faults=False), [])
    log = folder / "calls"
    assert made.plain(folder / "clean", **{killer.LOG: str(log)}).wait(60) == 0
    for line in log.read_text().splitlines():
        _, operation, name = line.split(" ", 2)
        if operation in ("get", "put", "put_if_absent", "delete") and not name.startswith("_run"):
            made.points.append(line)
    return made


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(NUM_RESUMED_BY_RAY), id="two kills"),
        pytest.param(
            range(NUM_RESUMED_BY_RAY, NUM_KILLS), id="eight more", marks=pytest.mark.sweep
        ),
    ],
)
def test_a_run_killed_with_its_ray_is_resumed_to_the_same_bytes(
    numbers: range, small: Small, digests: Digests, tmp_path: Path
) -> None:
    """Ten seeded storage calls; two of the runs go on under Ray, the others in the plain loop."""
    points = random.Random(5).sample(small.points, NUM_KILLS)
    assert {point.split()[1] for point in points} >= {"put", "put_if_absent", "delete"}

    for number in numbers:
        point, output = points[number], tmp_path / str(number)
        killed = small.ray(output, **{killer.RUN: point})
        assert killed.returncode == -signal.SIGKILL, f"{point}: {killed.stderr}"
        if number < NUM_RESUMED_BY_RAY:
            done = small.ray(output)
            assert done.returncode == 0, done.stderr
        else:
            process = small.plain(output)
            assert process.communicate(timeout=120)[1] == ""
            assert process.returncode == 0
        # A worker killed inside a write leaves a temporary file, which a run sweeps an hour later.
        Store(str(output)).remove_temporaries(older_than_s=0)
        small.check(output, digests)


def test_workers_killed_at_storage_calls_cost_nothing(
    small: Small, digests: Digests, tmp_path: Path
) -> None:
    """Five workers of one run die; their parts are tried again, and no row has failed."""
    (tmp_path / "once").mkdir()
    points = random.Random(6).sample([p for p in small.points if "put" in p], NUM_WORKERS)
    env = {killer.WORKERS: "\n".join(points), killer.ONCE: str(tmp_path / "once")}
    done = small.ray(tmp_path / "out", **env)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "once").iterdir())) == NUM_WORKERS
    small.check(tmp_path / "out", digests)


def test_two_drivers_on_one_output_end_in_the_same_bytes(
    small: Small, digests: Digests, tmp_path: Path
) -> None:
    """Processes that start at once and race for every part, three times."""
    for race in range(3):
        drivers = [small.plain(tmp_path / f"out{race}") for _ in range(2)]
        said = "".join(driver.communicate(timeout=120)[1] for driver in drivers)
        # A driver that removes the last part of a folder takes the folder from under the other one.
        assert all(" of 10 in " in line for line in said.splitlines()), said
        assert [driver.returncode for driver in drivers] == [0, 0]
        small.check(tmp_path / f"out{race}", digests)
