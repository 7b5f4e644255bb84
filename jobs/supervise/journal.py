"""What workers were at, kept outside of them: a process that dies can tell nothing afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.supervise.failure_counts import StartFailures, StorageFailures

# A journal that does not answer in this time is gone, and the run goes on without it.
ANSWER_S = 10.0
Place = tuple[str, int | None]  # shard and part; None: the reader, between two parts


@dataclass(frozen=True)
class Entry:
    """What is known of a part that is being worked on."""

    step: str
    timed_out_s: float | None = None  # the limit that its worker was ended for, if so


class _Book:
    def __init__(self, start_retries: int) -> None:
        self.entries: dict[Place, Entry] = {}
        self.reasons: list[tuple[Place, str]] = []
        self.starts = StartFailures(start_retries)
        self.refusals = StorageFailures()
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def is_stopped(self) -> bool:
        return self.stopped

    def begin(self, place: Place, step: str) -> None:
        self.entries[place] = Entry(step)

    def end(self, place: Place) -> None:
        self.entries.pop(place, None)
        if place[1] is not None:
            self.refusals.stored()

    def refused(self, reason: str) -> None:
        self.refusals.refused(reason)

    def timed_out(self, place: Place, step: str, limit_s: float, reason: str) -> None:
        self.entries[place] = Entry(step, limit_s)
        self.reasons.append((place, reason))

    def entry(self, place: Place) -> Entry | None:
        return self.entries.get(place)

    def take_reasons(self) -> list[tuple[Place, str]]:
        taken, self.reasons = self.reasons, []
        return taken

    def start_begins(self, worker: str, pool: str, host: str) -> None:
        self.starts.begin(worker, pool, host)

    def start_failed(self, worker: str, reason: str) -> None:
        self.starts.fail(worker, reason)

    def start_done(self, worker: str) -> None:
        self.starts.done(worker)

    def start_problems(self) -> tuple[str | None, str | None]:
        return self.starts.given_up or self.refusals.given_up, self.starts.last


class Journal:
    """A small actor beside the driver; workers write into it before each step on a part."""

    def __init__(self, start_retries: int = 0) -> None:
        """
        Args:
            start_retries: of a worker that does not start, before the run is to end.
        """
        # On the driver's own node, which is there for as long as the run: others may be taken away.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(num_cpus=0, scheduling_strategy=here)(_Book)
        self._book = actor.remote(start_retries)

    def begin(self, shard: str, part: int | None, step: str) -> None:
        """A worker starts with this step. Waits for the answer: it may die the next moment."""
        self._ask("begin", (shard, part), step)

    def end(self, shard: str, part: int | None) -> None:
        """The part is staged; nothing of it needs to be known any more."""
        self._book.end.remote((shard, part))

    def timed_out(self, shard: str, part: int | None, step: str, limit_s: float) -> str:
        """A worker is about to end itself. Returns the reason in words."""
        where = f"part {part} of shard {shard}" if part is not None else f"shard {shard}"
        reason = f"{where}: {step} timed out after {limit_s:g} s"
        self._ask("timed_out", (shard, part), step, limit_s, reason)
        return reason

    def entry(self, shard: str, part: int | None) -> Entry | None:
        """The last that was heard of a part."""
        entry: Entry | None = self._ask("entry", (shard, part))
        return entry

    def take_reasons(self) -> list[tuple[Place, str]]:
        """Why workers were ended since this was asked last, and on what shard and part."""
        reasons: list[tuple[Place, str]] = self._ask("take_reasons") or []
        return reasons

    def start_begins(self, worker: str, pool: str, host: str) -> None:
        """A worker loads what it needs. Waits for the answer: it may die the next moment."""
        self._ask("start_begins", worker, pool, host)

    def start_failed(self, worker: str, reason: str) -> None:
        """It could not, and is about to end its process."""
        self._ask("start_failed", worker, reason)

    def start_done(self, worker: str) -> None:
        """It could."""
        self._book.start_done.remote(worker)

    def ask_to_stop(self) -> None:
        """No further part shall be taken; see ``jobs/supervise/shutdown.py``."""
        self._book.stop.remote()

    def asked_to_stop(self) -> bool:
        """Whether somebody did."""
        return bool(self._ask("is_stopped"))

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Around the commit of a part: the run ends where the store takes none of them any more."""
        try:
            yield
        except OSError as error:
            self._ask("refused", f"{type(error).__name__}: {error}")
            raise

    def given_up(self) -> str | None:
        """Why the run is to end: a worker did not start, or nothing could be stored, for long."""
        return self._start_problems()[0]

    def start_problem(self) -> str | None:
        """The latest failure of a worker to start."""
        return self._start_problems()[1]

    def _start_problems(self) -> tuple[str | None, str | None]:
        problems: tuple[str | None, str | None] = self._ask("start_problems") or (None, None)
        return problems

    def _ask(self, method: str, *arguments: object) -> Any:
        try:
            return ray.get(getattr(self._book, method).remote(*arguments), timeout=ANSWER_S)
        except ray.exceptions.RayError:
            return None
