"""The retry worker: computes parts that were lost in the stream, one after the other.

It is an actor that the driver asks for one part at a time, so the driver knows which part it was
at when it died, and only that part fails. The steps that take one sample after the other are
watched sample by sample: there the journal knows the sample too, and only that one fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import ray

from jobs.edit.graph import actor_resources
from jobs.edit.worker import around_step
from jobs.supervise.watchdog import Guard
from pipeline.execution.operators import Operator, compute_part, flow_of, read
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.part import Part
from pipeline.records.staged import PartResult

Failure = tuple[str, str, str]  # stage, kind of error and message of a part's or a sample's rows
LostSamples = Mapping[str, Failure]  # by key, of one part
NODE_DIED = "its node has died"  # Ray's words
# When a node is taken away, Ray at first sees only a lost connection, until its health checks have
# failed: a quarter of a minute with Ray's defaults.
VERDICT_S = 60.0


class PartRunner:
    """Computes parts as the local loop does, when the driver asks. Runs as an actor."""

    def __init__(self, plan: Plan, guard: Guard) -> None:
        self.flow = flow_of(plan)
        self.around = partial(around_step, guard, plan.device)
        self.around_samples = partial(around_step, guard.by_sample(), plan.device)
        self.operators: list[Operator] | None = None

    def load(self) -> None:
        """Loads the networks, the first time. Without a watchdog: a hub may be slow."""
        if self.operators is None:
            self.operators = self.flow.load("fused")

    def open(self, work: ShardWork) -> None:
        """Starts reading a shard."""
        self.parts: Iterator[Part] = read(self.flow, work, self.around)

    def next(self) -> int | None:
        """Reads the next part of the shard that is not staged, and returns its index."""
        self.part = next(self.parts, None)
        return None if self.part is None else self.part.index

    def compute(self, lost: LostSamples = MappingProxyType({})) -> PartResult:
        """Takes the part that was read through all steps and commits it.

        Args:
            lost: samples that fail before the step in which they were lost. The others are
                computed as they would be beside samples that failed by themselves.
        """
        assert self.operators is not None
        return self._through([self.flow.prepare, *self.operators, *self.flow.last], lost)

    def fail(self, failure: Failure, lost: LostSamples) -> PartResult:
        """Commits the part that was read with rows that say why it could not be computed."""
        assert self.part is not None
        for key, own in lost.items():
            self.part.fail_sample(key, *own)
        self.part.fail(*failure)
        return self._through(self.flow.last, {})

    def _through(self, operators: list[Operator], lost: LostSamples) -> PartResult:
        assert self.part is not None
        for operator in operators:
            for key, failure in lost.items():
                if failure[0] == operator.name:
                    self.part.fail_sample(key, *failure)
            around = self.around_samples if operator.by_sample else self.around
            self.part = compute_part(self.part, [operator], around)
        assert self.part.result is not None, "commit makes the result of every part"
        return self.part.result


class RunnerLostError(RuntimeError):
    """The retry worker died or raised during a call; the message says which."""


class NodeLostError(RunnerLostError):
    """The retry worker's node died or was taken away: not the fault of a part."""


class NotStoredError(RunnerLostError):
    """The store did not take a part. The part is not at fault, so it has no failed rows."""


def _death(error: ray.exceptions.RayError) -> str:
    """How a process ended, as far as Ray knows."""
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "low on memory" in str(error):
        return "was ended by Ray because its node ran low on memory"
    return "died"


class Runner:
    """The driver's handle of a ``PartRunner`` in its own process."""

    def __init__(self, plan: Plan, guard: Guard) -> None:
        options = actor_resources(plan.config, "fused", plan.device)
        actor = ray.remote(**options, max_restarts=0, max_task_retries=0)(PartRunner)
        # Ray 2.60 types a class made an actor with options as the class itself.
        self.actor: Any = actor.remote(plan, guard)

    def ask(self, method: str, *arguments: object) -> Any:
        """
        Raises:
            RunnerLostError: it raised or died; its process is gone afterwards.
            NodeLostError: its node died.
            NotStoredError: it raised what a store raises, or its node's disk is full.
        """
        try:
            return ray.get(getattr(self.actor, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            self.end()
            cause = error.cause
            # What computes turns its errors into failed edits, so this one is a store's (or a
            # file's of the model, in ``load``).
            kind = NotStoredError if isinstance(cause, OSError) else RunnerLostError
            raise kind(f"raised {type(cause).__name__}: {cause}") from error
        except ray.exceptions.RayError as error:
            verdict = self._verdict(error)
            self.end()
            if NODE_DIED in str(verdict):
                raise NodeLostError("died with its node") from verdict
            if isinstance(verdict, ray.exceptions.OutOfDiskError):
                raise NotStoredError("found no room on the disk of its node") from verdict
            raise RunnerLostError(_death(verdict)) from verdict

    def _verdict(self, error: ray.exceptions.RayError) -> ray.exceptions.RayError:
        """Why the process died. At first Ray may only see a lost connection, so this waits."""
        deadline = time.monotonic() + VERDICT_S
        while isinstance(error, ray.exceptions.ActorUnavailableError):
            if time.monotonic() >= deadline:
                break
            time.sleep(1.0)
            try:
                ray.get(self.actor.__ray_ready__.remote())
                break  # it is alive, but the call is lost
            except ray.exceptions.RayError as later:
                error = later
        return error

    def end(self) -> None:
        """Ends the process, which frees its memory and its GPU."""
        ray.kill(self.actor)
