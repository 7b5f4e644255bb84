"""Kills a real process at every storage call of a job, runs the job again, and prints the results.

    python -m tests.stores.crash_runner FOLDER MODE [EVERY]

With EVERY, only each EVERYth storage call is tested.

Everything is imported once; each job is a fork, so that a kill costs milliseconds. Two lanes, which
are forks too, share the crash points; each has its own output.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.config.filters import filtering_of
from pipeline.plan.code import code_hash
from pipeline.plan.filters import read_filters
from pipeline.plan.run_folder import write_run_folder
from pipeline.republish.refilter import refilter
from pipeline.republish.retry_failed import reopen_failed
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.committing import contents
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard
from tests.stores.forks import in_child, in_lanes, kill_at, must, record

VARIES = ("_run/config.yaml", "_run/summary.json", "_run/environment.json")  # paths and seconds
# The run that is killed, and the run that follows. Of "A or B", A follows a kill before a call and
# B follows a kill after a call: the stored objects are the same.
MODES = {
    "edit": ("edit", "edit"),
    # with steps in threads: the order of the calls varies, so each test run kills at other calls
    "edit beside": ("edit beside", "edit beside"),
    "retry": ("retry", "retry"),
    "retry, then edit": ("retry", "edit"),
    "refilter": ("refilter", "refilter or edit"),
    "edit, then another input": ("edit", "edit"),  # the shards are replaced under their names
}
# The old filters reject nothing of shard 0 and all of 1; the new ones reject all but one of 0 and
# nothing of 1.
OLD_FILTERS, NEW_FILTERS = ["edit_rms >= 0.39"], ["background_psnr_db >= 6.5"]


def job(
    folder: Path,
    output: Path,
    kind: str = "edit",
    *,
    filters: Sequence[str] = (),
    failing: tuple[str, ...] = (),
) -> None:
    """Does what ``overpaint edit`` does, in its order, with the local loop; or ``refilter``."""
    if kind == "refilter":
        assert refilter(Store(str(output)), filtering_of(filters)).problems == []
        return
    plan = fake_plan(f"{folder}/in/*.tar", str(output), filters=list(filters))
    assert plan.output.conditional
    write_run_folder(plan)
    if kind == "retry":
        reopened = reopen_failed(plan)
        assert reopened.problems == []
        plan = reopened.plan
    assert run_fake(plan, failing, beside=kind == "edit beside").work == []


def stable(output: Path) -> dict[str, bytes]:
    """Every file; in markers, everything that depends on the clock is removed."""
    files = {name: data for name, data in contents(output).items() if name not in VARIES}
    for name in files:
        if name.endswith("_stats.json"):
            marker = json.loads(files[name])
            for clocked in ("published_at", "seconds", "hosts", "digest"):
                del marker[clocked]
            files[name] = json.dumps(marker).encode()
    return files


def write_input(folder: Path, seed: int = 0) -> None:
    """Writes a shard of two parts and one of one part; some edits fail, always or if asked."""
    own = [raw_sample(key, seed=seed + n) for n, key in enumerate("abc")]
    first = [own[0] | {"edit.txt": "a cat\nbad", "cls": "7"}, own[1] | {"edit.txt": "a fox"}]
    write_shard(folder / "in/0.tar", first)
    write_shard(folder / "in/1.tar", [raw_sample("broken", png=b"no image"), own[2]])


def pair(output: Path, shard: str) -> tuple[bytes, bytes]:
    return (output / f"{shard}.tar").read_bytes(), (output / f"{shard}.parquet").read_bytes()


class Sweep:
    """The crash points of one mode."""

    def __init__(self, folder: Path, mode: str) -> None:
        """Writes the input, an output that nothing disturbed, and what the killed run starts from.

        Args:
            folder: for all of it.
            mode: a key of ``MODES``.
        """
        self.folder = folder
        self.killed, self.followers = MODES[mode]
        self.replaced = mode == "edit, then another input"
        refilters = self.killed == "refilter"
        self.new: Sequence[str] = NEW_FILTERS if refilters else ()
        self.old: Sequence[str] = OLD_FILTERS if refilters else ()
        self.clean, self.start = folder / "clean", folder / "start"
        write_input(folder)
        must(self._first_job)
        for name in (folder / "modules").read_text().splitlines():
            with suppress(ImportError):  # importing what jobs import saves 2 s in each fork
                importlib.import_module(name)
        code_hash()  # is remembered, which saves 0.3 s in each fork
        failing = ("bad",) if self.killed == "retry" else ()
        must(lambda: job(folder, self.start, filters=self.old, failing=failing))
        # the run that follows a killed retry may find that the retry had not begun
        not_begun = (self.killed, self.followers) == ("retry", "edit")
        self.allowed = [stable(self.clean)] + ([stable(self.start)] if not_begun else [])
        self.anew = self.killed.startswith("edit")
        assert (stable(self.clean) != stable(self.start)) is not self.anew
        if self.replaced:
            write_input(folder / "other", seed=7)
            must(lambda: job(folder / "other", folder / "other/out"))
        self.points = self._recorded()

    def _first_job(self) -> None:
        job(self.folder, self.clean, filters=self.new)
        (self.folder / "modules").write_text("\n".join(sys.modules))

    def _recorded(self) -> list[str]:
        """The points of an undisturbed run: before and after every storage call."""
        calls, output = self.folder / "calls", self.folder / "out"
        self._renew(output)

        def recorded_job() -> None:
            record(calls)
            job(self.folder, output, self.killed, filters=self.new)

        must(recorded_job)
        return calls.read_text().splitlines()

    def _renew(self, output: Path) -> None:
        shutil.rmtree(output, ignore_errors=True)
        if not self.anew:
            shutil.copytree(self.start, output)

    def problems(self, output: Path, number: int) -> list[str]:
        """Kills a run at a point and runs the job again: a line for what is not as it should be."""
        self._renew(output)
        point, found = self.points[number], []
        home = output.with_name(f"{output.name}-home") if self.replaced else self.folder
        if self.replaced:
            write_input(home)

        def killed_job() -> None:
            kill_at(number)
            job(home, output, self.killed, filters=self.new)

        code, said = in_child(killed_job)
        if code != -signal.SIGKILL:
            found.append(f"{point}: was not killed: {said}")
        if self.replaced:
            code, said = in_child(lambda: self._check_replaced(home, output))
        else:
            code, said = in_child(lambda: self._check(output, point))
        if code or said:
            found.append(f"{point}: {code}: {said}")
        return found

    def _check(self, output: Path, point: str) -> None:
        """The run that follows completes the killed one."""
        first, _, second = self.followers.partition(" or ")
        following = second if second and point.startswith("after") else first
        begun = read_filters(Store(str(output)))
        if following == "edit" and begun is not None and begun.filters == self.old != self.new:
            return  # the refilter was killed before it had begun
        job(self.folder, output, following, filters=self.new)
        assert verify(Store(str(output))).problems == []
        assert stable(output) in self.allowed, sorted(stable(output))

    def _check_replaced(self, home: Path, output: Path) -> None:
        """After its shards were replaced, each is published of one content, not of two."""
        write_input(home, seed=7)
        job(home, output)
        assert verify(Store(str(output))).problems == []
        assert not (output / "_parts").exists()
        for shard in "01":
            wholes = [pair(self.clean, shard), pair(self.folder / "other/out", shard)]
            assert pair(output, shard) in wholes, f"shard {shard} is of two contents"


def sweep(folder: Path, mode: str, every: int = 1) -> dict[str, object]:
    """Tests the crash points of one mode.

    Returns:
        JSON-able: the crash points, and a line for each point after which the second run did not
        end as it should.
    """
    os.fsync = lambda fd: None  # writes survive the kill of a process without it
    found = Sweep(folder, mode)
    tested = range(0, len(found.points), every)
    return {"points": found.points, "bad": in_lanes(folder, tested, found.problems)}


if __name__ == "__main__":
    print(json.dumps(sweep(Path(sys.argv[1]), sys.argv[2], int([*sys.argv, "1"][3]))))
