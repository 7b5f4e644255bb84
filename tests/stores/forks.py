"""Jobs in forks of a process that has imported everything, and how one is killed.

The parent never runs a job itself: it has no threads and no open clients that a fork would break.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pipeline.storage.store import Store

LANES = 2


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
