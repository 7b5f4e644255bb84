"""Kills a real process at every storage call of a job and runs the job again; prints what it found.

    python -m tests.stores.crash_runner FOLDER MODE

Everything is imported once; each job is a fork, so that a kill costs milliseconds. The parent never
runs any of the job itself: it keeps no threads and no open clients that a fork would break. Points
are swept in two lanes, forks too, each with an output of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from pipeline.config.filters import filtering_of
from pipeline.plan.filters import read_filters
from pipeline.plan.run_folder import write_run_folder
from pipeline.republish.refilter import refilter
from pipeline.republish.retry_failed import reopen_failed
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.committing import contents
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard

VARIES = ("_run/config.yaml", "_run/summary.json", "_run/environment.json")  # paths and seconds
# The run that is killed, and the one that follows it; where it may be either of two, the first
# follows a kill before a call and the second one after it: what is stored is the same.
MODES = {
    "edit": ("edit", "edit"),
    # steps in threads: what call is the nth one varies, and so a kill falls on other ones each time
    "edit beside": ("edit beside", "edit beside"),
    "retry": ("retry", "retry"),
    "retry, then edit": ("retry", "edit"),
    "refilter": ("refilter", "refilter or edit"),
}
LANES = 2
# By shard: one rejects nothing of 0 and all of 1, the other all but one of 0 and nothing of 1.
OLD_FILTERS, NEW_FILTERS = ["edit_rms >= 0.39"], ["background_psnr_db >= 6.5"]


def job(
    folder: Path,
    output: Path,
    kind: str = "edit",
    *,
    filters: Sequence[str] = (),
    failing: tuple[str, ...] = (),
) -> None:
    """What ``overpaint edit`` does, in its order, around the plain loop; or ``refilter``."""
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


def in_child(work: Callable[[], None]) -> tuple[int, str]:
    """Runs it in a fork. Returns the signal that ended the fork, or 0, and what went wrong."""
    return end(begin(work))


def begin(work: Callable[[], None]) -> tuple[int, int]:
    """Starts a fork that runs it. Returns its process id, and the pipe that tells what is wrong."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            work()
        except BaseException:  # noqa: BLE001 - told to the parent
            os.write(writer, traceback.format_exc()[-4000:].encode())
        os._exit(0)
    os.close(writer)
    return pid, reader


def end(child: tuple[int, int]) -> tuple[int, str]:
    """Waits for a fork that was begun. Returns what ``in_child`` does."""
    pid, reader = child
    with os.fdopen(reader, "rb") as said:
        message = said.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), message


def stable(output: Path) -> dict[str, bytes]:
    """Every file, but for what is measured by the clock."""
    files = {name: data for name, data in contents(output).items() if name not in VARIES}
    for name in files:
        if name.endswith("_stats.json"):
            marker = json.loads(files[name])
            for clocked in ("published_at", "seconds", "hosts"):
                del marker[clocked]
            files[name] = json.dumps(marker).encode()
    return files


def write_input(folder: Path) -> None:
    """Two shards of two parts and of one; an edit that can be made to fail, one that always is."""
    first = [raw_sample("a", ["a cat", "bad"], cls="7"), raw_sample("b", ["a fox"], seed=1)]
    write_shard(folder / "in/0.tar", first)
    write_shard(
        folder / "in/1.tar", [raw_sample("broken", png=b"no image"), raw_sample("c", seed=2)]
    )


def sweep(folder: Path, mode: str) -> dict[str, object]:
    """All crash points of one mode.

    Returns:
        JSON-able: the storage calls before and after which was killed, and a line for each point
        after which the second run did not end as it should.
    """
    os.fsync = lambda descriptor: None  # a killed process loses nothing that it has written
    write_input(folder)
    killed, followers = MODES[mode]
    new, old = (NEW_FILTERS, OLD_FILTERS) if killed == "refilter" else ((), ())
    clean, start = folder / "clean", folder / "start"
    must(
        lambda: (
            job(folder, clean, filters=new),
            (folder / "modules").write_text("\n".join(sys.modules)),
        )
    )
    for name in (folder / "modules").read_text().splitlines():
        with suppress(ImportError):  # what a job imports at its first use: 2 s less for each fork
            importlib.import_module(name)
    failing = ("bad",) if killed == "retry" else ()
    must(lambda: job(folder, start, filters=old, failing=failing))
    # the run that follows a killed retry may find that it never began
    allowed = [stable(clean)] + (
        [stable(start)] if (killed, followers) == ("retry", "edit") else []
    )
    anew = killed.startswith("edit")
    assert (stable(clean) != stable(start)) is not anew

    def fresh(output: Path) -> None:
        shutil.rmtree(output, ignore_errors=True)
        if not anew:
            shutil.copytree(start, output)

    def check(output: Path, point: str) -> None:
        first, _, second = followers.partition(" or ")
        following = second if second and point.startswith("after") else first
        begun = read_filters(Store(str(output)))  # a refilter may be killed before it has begun
        if following == "edit" and begun is not None and begun.filters == old != new:
            return
        job(folder, output, following, filters=new)
        assert verify(Store(str(output))).problems == []
        assert stable(output) in allowed, sorted(stable(output))

    def problems(output: Path, number: int) -> list[str]:
        fresh(output)
        point, found = points[number], []
        code, said = in_child(lambda: (kill_at(number), job(folder, output, killed, filters=new)))  # type: ignore[func-returns-value]
        if code != -signal.SIGKILL:
            found.append(f"{point}: was not killed: {said}")
        code, said = in_child(lambda: check(output, point))
        if code or said:
            found.append(f"{point}: {code}: {said}")
        return found

    fresh(folder / "out")
    calls = folder / "calls"
    must(lambda: (record(calls), job(folder, folder / "out", killed, filters=new)))  # type: ignore[func-returns-value]
    points = calls.read_text().splitlines()
    return {"points": points, "bad": in_lanes(folder, len(points), problems)}


def in_lanes(
    folder: Path, num_points: int, problems: Callable[[Path, int], list[str]]
) -> list[str]:
    """What ``problems`` says of all points, given the output of the lane and a point's number."""

    def lane(first: int) -> None:
        points = range(first, num_points, LANES)
        found = [line for point in points for line in problems(folder / f"out{first}", point)]
        (folder / f"bad{first}").write_text(json.dumps(found))

    lanes = [begin(partial(lane, first)) for first in range(LANES)]
    for code, said in [end(child) for child in lanes]:
        assert (code, said) == (0, ""), (code, said)
    return [line for n in range(LANES) for line in json.loads((folder / f"bad{n}").read_text())]


def must(work: Callable[[], object]) -> None:
    code, said = in_child(lambda: work() and None)
    assert code == 0, code
    assert not said, said


def record(path: Path) -> None:
    """From now on every storage call of this process is written down, before and after."""
    file = path.open("w", buffering=1)
    Store.hook = lambda when, operation, name: print(when, operation, name, file=file)


def kill_at(number: int) -> None:
    """From now on this process kills itself at that call."""
    left = [number]
    lock = threading.Lock()

    def hook(when: str, operation: str, name: str) -> None:
        with lock:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    Store.hook = hook


if __name__ == "__main__":
    print(json.dumps(sweep(Path(sys.argv[1]), sys.argv[2])))
