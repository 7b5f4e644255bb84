"""Kills a real process at every storage call of a job, runs the job again, and prints the results.

    python -m tests.stores.crash_runner FOLDER MODE [EVERY]

With EVERY, only each EVERYth storage call is tested.

Everything is imported once; each job is a fork, so that a kill costs milliseconds. The parent never
runs a job itself: it has no threads and no open clients that a fork would break. Two lanes, which
are forks too, share the crash points; each has its own output.
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
LANES = 2
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


def in_child(work: Callable[[], None]) -> tuple[int, str]:
    """Runs ``work`` in a fork; returns the signal that killed it, or 0, and its traceback."""
    return end(begin(work))


def begin(work: Callable[[], None]) -> tuple[int, int]:
    """Starts a fork that runs ``work``; returns its process id and a pipe with its traceback."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            work()
        except BaseException:  # noqa: BLE001 - the parent reads it
            os.write(writer, traceback.format_exc()[-4000:].encode())
        os._exit(0)
    os.close(writer)
    return pid, reader


def end(child: tuple[int, int]) -> tuple[int, str]:
    """Waits for a fork from ``begin``; returns what ``in_child`` returns."""
    pid, reader = child
    with os.fdopen(reader, "rb") as said:
        message = said.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), message


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


def sweep(folder: Path, mode: str, every: int = 1) -> dict[str, object]:
    """Tests the crash points of one mode.

    Returns:
        JSON-able: the crash points (before and after every storage call), and a line for each
        point after which the second run did not end as it should.
    """
    os.fsync = lambda fd: None  # writes survive the kill of a process without it
    write_input(folder)
    killed, followers = MODES[mode]
    new, old = (NEW_FILTERS, OLD_FILTERS) if killed == "refilter" else ((), ())
    clean, start = folder / "clean", folder / "start"

    def first_job() -> None:
        job(folder, clean, filters=new)
        (folder / "modules").write_text("\n".join(sys.modules))

    must(first_job)
    for name in (folder / "modules").read_text().splitlines():
        with suppress(ImportError):  # importing what jobs import saves 2 s in each fork
            importlib.import_module(name)
    code_hash()  # is remembered, which saves 0.3 s in each fork
    failing = ("bad",) if killed == "retry" else ()
    must(lambda: job(folder, start, filters=old, failing=failing))
    # the run that follows a killed retry may find that the retry had not begun
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
        begun = read_filters(Store(str(output)))
        if following == "edit" and begun is not None and begun.filters == old != new:
            return  # the refilter was killed before it had begun
        job(folder, output, following, filters=new)
        assert verify(Store(str(output))).problems == []
        assert stable(output) in allowed, sorted(stable(output))

    replaced = mode == "edit, then another input"
    if replaced:
        write_input(folder / "other", seed=7)
        must(lambda: job(folder / "other", folder / "other/out"))

    def check_replaced(home: Path, output: Path) -> None:
        write_input(home, seed=7)
        job(home, output)
        assert verify(Store(str(output))).problems == []
        assert not (output / "_parts").exists()
        for shard in "01":
            wholes = [pair(clean, shard), pair(folder / "other/out", shard)]
            assert pair(output, shard) in wholes, f"shard {shard} is of two contents"

    def problems(output: Path, number: int) -> list[str]:
        fresh(output)
        point, found = points[number], []
        home = output.with_name(f"{output.name}-home") if replaced else folder
        if replaced:
            write_input(home)

        def killed_job() -> None:
            kill_at(number)
            job(home, output, killed, filters=new)

        code, said = in_child(killed_job)
        if code != -signal.SIGKILL:
            found.append(f"{point}: was not killed: {said}")
        check_it = partial(check_replaced, home) if replaced else partial(check, point=point)
        code, said = in_child(lambda: check_it(output))
        if code or said:
            found.append(f"{point}: {code}: {said}")
        return found

    fresh(folder / "out")
    calls = folder / "calls"

    def recorded_job() -> None:
        record(calls)
        job(folder, folder / "out", killed, filters=new)

    must(recorded_job)
    points = calls.read_text().splitlines()
    return {"points": points, "bad": in_lanes(folder, range(0, len(points), every), problems)}


def in_lanes(
    folder: Path, numbers: Sequence[int], problems: Callable[[Path, int], list[str]]
) -> list[str]:
    """The lines of ``problems`` for these points; it gets a lane's output and a point's number."""

    def lane(first: int) -> None:
        points = numbers[first::LANES]
        found = [line for point in points for line in problems(folder / f"out{first}", point)]
        (folder / f"bad{first}").write_text(json.dumps(found))

    lanes = [begin(partial(lane, first)) for first in range(LANES)]
    for code, said in [end(child) for child in lanes]:
        assert (code, said) == (0, ""), (code, said)
    return [line for n in range(LANES) for line in json.loads((folder / f"bad{n}").read_text())]


def must(work: Callable[[], None]) -> None:
    code, said = in_child(work)
    assert code == 0, code
    assert not said, said


def record(path: Path) -> None:
    """Writes every further storage call of this process into a file, before and after it."""
    file = path.open("w", buffering=1)
    Store.hook = lambda when, operation, name: print(when, operation, name, file=file)


def kill_at(number: int) -> None:
    """Makes this process kill itself at the storage call with this number."""
    left = [number]
    lock = threading.Lock()

    def hook(when: str, operation: str, name: str) -> None:
        with lock:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    Store.hook = hook


if __name__ == "__main__":
    print(json.dumps(sweep(Path(sys.argv[1]), sys.argv[2], int([*sys.argv, "1"][3]))))
