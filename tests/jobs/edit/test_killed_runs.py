"""SIGKILL at any storage call of a run on Ray, and SIGTERM: the next run ends in equal bytes."""

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
from tests.jobs.edit.test_layouts import staged, wait_for_first_part
from tests.jobs.faulty import PACE, install
from tests.samples import raw_sample, write_shard

pytestmark = pytest.mark.slow
Digests = Callable[[Path], dict[str, str]]

NUM_KILLS, RESUMED_BY_RAY, NUM_WORKERS = 10, (0, 2), 5
OVERRIDES = ("run.part_size=2", "model.device=cpu", "run.num_cpus=2", "run.layout=fused")


@dataclass(frozen=True)
class Small:
    """A job of eight parts in three shards, with stages that need no torch."""

    job: Job
    folder: Path
    env: dict[str, str]
    points: list[str]  # the workers' storage calls in an undisturbed run, in order

    def arguments(self, output: Path) -> tuple[str, ...]:
        return (f"input.shards={self.folder}/in/*.tar", *OVERRIDES)

    def plain(self, output: Path, **env: str) -> subprocess.Popen[str]:
        """Starts the local loop as a process."""
        arguments = self.job.arguments(output, *self.arguments(output))[1:]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.plain", *arguments],
            cwd=ROOT,
            env=os.environ | self.env | env,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ray(self, output: Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs the command, with its own Ray."""
        return self.job.run(output, *self.arguments(output), **self.env, **env)

    def check(self, output: Path, digests: Digests) -> None:
        """Checks that the output has the bytes of an undisturbed run, without leftovers."""
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
        pytest.param(range(2), id="two kills"),
        pytest.param(range(2, NUM_KILLS), id="eight more", marks=pytest.mark.sweep),
    ],
)
def test_a_run_killed_with_its_ray_is_resumed_to_the_same_bytes(
    numbers: range, small: Small, digests: Digests, tmp_path: Path
) -> None:
    """At ten seeded storage calls; two runs are resumed on Ray, the others in the local loop."""
    points = random.Random(5).sample(small.points, NUM_KILLS)
    assert {point.split()[1] for point in points} >= {"put", "put_if_absent", "delete"}

    for number in numbers:
        point, output = points[number], tmp_path / str(number)
        killed = small.ray(output, **{killer.RUN: point})
        assert killed.returncode == -signal.SIGKILL, f"{point}: {killed.stderr}"
        if number in RESUMED_BY_RAY:
            done = small.ray(output)
            assert done.returncode == 0, done.stderr
        else:
            process = small.plain(output)
            assert process.communicate(timeout=120)[1] == ""
            assert process.returncode == 0
        # A worker that is killed during a write leaves a temporary file, which runs sweep later.
        Store(str(output)).remove_temporaries(older_than_s=0)
        small.check(output, digests)


def test_sigterm_stages_the_part_in_flight(small: Small, digests: Digests, tmp_path: Path) -> None:
    """The run ends with exit code 75, long before its eight parts; another one completes it."""
    output, pace = tmp_path / "out", tmp_path / "pace"
    pace.mkdir()
    (pace / "seconds-decode").write_text("3")
    process = small.job.start(output, *small.arguments(output), **small.env, **{PACE: str(pace)})
    wait_for_first_part(process, output)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 75, text
    assert "SIGTERM: taking no further parts" in text
    assert staged(output)
    assert small.plain(output).wait(60) == 0
    small.check(output, digests)


def test_killed_workers_fail_no_edit(small: Small, digests: Digests, tmp_path: Path) -> None:
    """Five workers of one run die at storage calls; their parts are retried."""
    (tmp_path / "once").mkdir()
    points = random.Random(6).sample([p for p in small.points if "put" in p], NUM_WORKERS)
    env = {killer.WORKERS: "\n".join(points), killer.ONCE: str(tmp_path / "once")}
    done = small.ray(tmp_path / "out", **env)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "once").iterdir())) == NUM_WORKERS
    small.check(tmp_path / "out", digests)


@pytest.mark.parametrize("races", [2, pytest.param(5, marks=pytest.mark.sweep)])
def test_two_drivers_on_one_output_write_the_same_bytes(
    races: int, small: Small, digests: Digests, tmp_path: Path
) -> None:
    """Two processes start at the same time and race for every part."""
    for race in range(races):
        drivers = [small.plain(tmp_path / f"out{race}") for _ in range(2)]
        said = "".join(driver.communicate(timeout=120)[1] for driver in drivers)
        # When one driver removes the last part in a folder, the folder vanishes for the other one.
        assert all(" of 10 in " in line for line in said.splitlines()), said
        assert [driver.returncode for driver in drivers] == [0, 0]
        small.check(tmp_path / f"out{race}", digests)
