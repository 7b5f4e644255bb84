"""Records which step each worker runs on which part, in an actor that outlives the workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.supervise.failure_counts import StartFailures, StorageFailures
from jobs.supervise.outages import StoreOutages

# If the journal does not answer in this time, it is lost, and the run continues without it.
ANSWER_S = 10.0
Place = tuple[str, int | None]  # shard and part; None: the reader, between two parts


@dataclass(frozen=True)
class Entry:
    """The step that runs, or last ran, on a part that is not staged yet."""

    step: str
    timed_out_s: float | None = None  # the time limit for which its worker was killed, if it was
    sample: str | None = None  # the key that it is at, of a step whose samples are watched


class _JournalActor:
    def __init__(self, start_retries: int) -> None:
        self.entries: dict[Place, Entry] = {}
        self.reasons: list[tuple[Place, str]] = []
        self.starts = StartFailures(start_retries)
        self.refusals = StorageFailures()
        self.outages = StoreOutages()
        self.notices: list[str] = []
        self.compiled_by: Counter[str] = Counter()
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def is_stopped(self) -> bool:
        return self.stopped

    def begin(self, place: Place, step: str) -> None:
        self.entries[place] = Entry(step)

    def at_sample(self, place: Place, step: str, sample: str) -> None:
        self.entries[place] = Entry(step, sample=sample)

    def end(self, place: Place) -> None:
        self.entries.pop(place, None)
        if place[1] is not None:
            self.refusals.stored()

    def refused(self, reason: str) -> None:
        self.refusals.refused(reason)

    def outage(self, store: str, reason: str | None, seconds: float) -> None:
        self.outages.report(store, reason, seconds)

    def take_outages(self) -> list[str]:
        return self.outages.take_lines()

    def notice(self, line: str) -> None:
        self.notices.append(line)

    def take_notices(self) -> list[str]:
        taken, self.notices = self.notices, []
        return taken

    def compiled(self, step: str, number: int) -> None:
        self.compiled_by[step] += number

    def compilations(self) -> dict[str, int]:
        return dict(self.compiled_by)

    def timed_out(
        self, place: Place, step: str, limit_s: float, sample: str | None, reason: str
    ) -> None:
        self.entries[place] = Entry(step, limit_s, sample)
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
    """The handle of a small actor on the driver's node; workers report each step on a part to it.

    Reports that precede a possible crash wait for the answer, so that they are not lost.
    """

    def __init__(self, start_retries: int = 0) -> None:
        """
        Args:
            start_retries: how often a worker may fail to start in a row before the run ends.
        """
        # On the driver's own node, which lives as long as the run; other nodes may be preempted.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(_JournalActor).options(num_cpus=0, scheduling_strategy=here)
        self._actor = actor.remote(start_retries)

    def begin(self, shard: str, part: int | None, step: str) -> None:
        """A worker starts a step on a part. Waits for the answer."""
        self._ask("begin", (shard, part), step)

    def at_sample(self, shard: str, part: int | None, step: str, sample: str) -> None:
        """The step is at this sample, by its key. Waits for the answer."""
        self._ask("at_sample", (shard, part), step, sample)

    def end(self, shard: str, part: int | None) -> None:
        """The part is staged; its entry is deleted."""
        self._send("end", (shard, part))

    def timed_out(
        self, shard: str, part: int | None, step: str, limit_s: float, sample: str | None = None
    ) -> str:
        """A worker is about to kill itself. Waits for the answer; returns the reason in words."""
        where = f"part {part} of shard {shard}" if part is not None else f"shard {shard}"
        where = where if sample is None else f"sample {sample} in {where}"
        reason = f"{where}: {step} timed out after {limit_s:g} s"
        self._ask("timed_out", (shard, part), step, limit_s, sample, reason)
        return reason

    def entry(self, shard: str, part: int | None) -> Entry | None:
        """The last entry of a part that is not staged; None if there is none."""
        entry: Entry | None = self._ask("entry", (shard, part))
        return entry

    def take_reasons(self) -> list[tuple[Place, str]]:
        """Why workers were killed since the last call, with the shard and part of each."""
        reasons: list[tuple[Place, str]] = self._ask("take_reasons") or []
        return reasons

    def outage(self, store: str, reason: str | None, seconds: float) -> None:
        """A store does not answer this process, or (reason None) answers again after an outage."""
        self._send("outage", store, reason, seconds)

    def take_outages(self) -> list[str]:
        """A line for each beginning and end of an outage since the last call."""
        lines: list[str] = self._ask("take_outages") or []
        return lines

    def notice(self, line: str) -> None:
        """A worker has found something that the user should read."""
        self._send("notice", line)

    def take_notices(self) -> list[str]:
        """The notices since the last call."""
        lines: list[str] = self._ask("take_notices") or []
        return lines

    def compiled(self, step: str, number: int) -> None:
        """A step has compiled so many graphs. Waits for the answer, so that none is missed."""
        self._ask("compiled", step, number)

    def compilations(self) -> dict[str, int]:
        """The graphs that steps have compiled, by step; what loading compiles is none of them."""
        found: dict[str, int] = self._ask("compilations") or {}
        return found

    def start_begins(self, worker: str, pool: str, host: str) -> None:
        """A worker starts to load its model. Waits for the answer."""
        self._ask("start_begins", worker, pool, host)

    def start_failed(self, worker: str, reason: str) -> None:
        """The worker could not start, and is about to kill itself. Waits for the answer."""
        self._ask("start_failed", worker, reason)

    def start_done(self, worker: str) -> None:
        """Records a successful start."""
        self._send("start_done", worker)

    def ask_to_stop(self) -> None:
        """Asks readers to take no further part; see ``jobs/supervise/shutdown.py``."""
        self._send("stop")

    def asked_to_stop(self) -> bool:
        """Whether ``ask_to_stop`` was called."""
        return bool(self._ask("is_stopped"))

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Wraps the commit of a part, and counts storage errors for ``given_up``."""
        try:
            yield
        except OSError as error:
            self._ask("refused", f"{type(error).__name__}: {error}")
            raise

    def given_up(self) -> str | None:
        """Why the run must end: a worker failed to start, or no part could be stored, too often."""
        return self._start_problems()[0]

    def start_problem(self) -> str | None:
        """The latest failed start of a worker, in words."""
        return self._start_problems()[1]

    def _start_problems(self) -> tuple[str | None, str | None]:
        problems: tuple[str | None, str | None] = self._ask("start_problems") or (None, None)
        return problems

    def _send(self, method: str, *arguments: object) -> None:
        getattr(self._actor, method).remote(*arguments)

    def _ask(self, method: str, *arguments: object) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments), timeout=ANSWER_S)
        except ray.exceptions.RayError:
            return None
