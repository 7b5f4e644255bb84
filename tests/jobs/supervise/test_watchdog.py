"""The watchdog kills a process that hangs in a step, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import ctypes, sys, time
from jobs.supervise import watchdog as watch
from pipeline.process.heartbeat import heartbeat

watch.SILENCE_S, watch.BACKSTOP_S = 0.6, 0.4

class Journal:
    outage = notice = None
    def begin(self, shard, part, step):
        print("begin", shard, part, step)
    def at_sample(self, shard, part, step, sample):
        print("at", step, sample)
    def timed_out(self, shard, part, step, limit_s, sample):
        print("timed out", limit_s, sample or "", flush=True)
        return "the reason"

def go_on(seconds):
    for _ in range(int(seconds / 0.2)):
        time.sleep(0.2)
        heartbeat()

def each(seconds):
    for key in "wxyz":
        heartbeat(key)
        time.sleep(seconds)

guard = watch.Guard(Journal(), {limit}, watch.SILENCE_S)
with {guard}.watch("a", 3, "mask"):
    {block}
go_on(0.6)  # no watchdog listens any more
time.sleep(1.2)
print("survived")
"""
NATIVE = "ctypes.CDLL(None).sleep(30)"
LOCKED = "ctypes.PyDLL(None).sleep(30)"  # holds Python's lock, so no other Python thread can run


@pytest.mark.parametrize(
    ("limit", "block", "code", "words"),
    [
        (0.6, "time.sleep(0.1)", 0, ["begin a 3 mask", "survived"]),
        (
            0.6,
            NATIVE,
            -signal.SIGKILL,
            ["timed out 0.6", "overpaint: the reason; killing this worker"],
        ),
        (0.6, "go_on(3)", -signal.SIGKILL, ["timed out 0.6", "in go_on"]),
        (None, "go_on(1.6)", 0, ["survived"]),
        (None, f"go_on(1); {NATIVE}", -signal.SIGKILL, ["timed out 0.6"]),
        (0.6, LOCKED, 1, ["Timeout (0:00:01)!"]),
    ],
    ids=["in time", "hang", "limit", "heartbeats", "silence", "hang with the lock"],
)
def test_only_a_hang_is_killed(
    limit: float | None, block: str, code: int, words: list[str]
) -> None:
    """The reason is in the journal and the log, with the traceback of the hang."""
    done = run(SCRIPT.format(limit=limit, block=block, guard="guard"))
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("block", "code", "words"),
    [
        ("each(0.2)", 0, ["at mask w", "at mask x", "at mask y", "at mask z", "survived"]),
        (f"heartbeat('x'); heartbeat(); {NATIVE}", -signal.SIGKILL, ["at mask x", "0.6 x"]),
    ],
    ids=["slow in sum", "hang"],
)
@pytest.mark.parametrize("limit", [0.6, None])
def test_a_watch_by_sample_gives_each_sample_its_own_limit(
    limit: float | None, block: str, code: int, words: list[str]
) -> None:
    """The journal knows the sample before the step meets it, so also when the process dies."""
    done = run(SCRIPT.format(limit=limit, block=block, guard="guard.by_sample()"))
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stdout + done.stderr


def run(script: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
