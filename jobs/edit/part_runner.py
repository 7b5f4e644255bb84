"""Parts that were lost in the stream run again alone: one after the other, in one process.

The process is an actor that the driver talks to part by part, so the driver knows which part it was
at when it died, and only that part fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

from jobs.edit.graph import actor_resources, no_exit, run_stage
from jobs.edit.metrics import tell_traffic
from jobs.supervise.watchdog import Guard
from pipeline.execution.operators import (
    PartResult,
    fail_and_commit,
    finish_and_commit,
    finish_context,
    prepared,
    read,
)
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.part import Part

Failure = tuple[str, str, str]  # stage, kind of error and message of a part's rows
NODE_DIED = "its node has died"  # Ray's words
# A lost connection is all that is seen of a node that was taken away, until its health checks have
# failed: a quarter of a minute with Ray's defaults.
VERDICT_S = 60.0


class PartRunner:
    """Does what the plain loop does, for parts that the driver asks for. Runs as an actor."""

    def __init__(self, plan: Plan, guard: Guard) -> None:
        self.plan, self.guard = plan, guard
        self.stages: dict[str, Callable[[Part], Part]] | None = None

    def load(self) -> None:
        """Loads the networks, the first time. Not watched over: a hub may be slow."""
        from pipeline.stages.build import (
            load_fused,  # here: reading and failing parts need no torch
        )

        if self.stages is None:
            self.stages = load_fused(self.plan.config, self.plan.device)

    def open(self, work: ShardWork) -> None:
        """Begins with a shard."""
        self.shard = work.shard.name
        self.parts: Iterator[Part] = read(work, self.plan.config)

    def next(self) -> int | None:
        """Reads the next part of the shard that is not staged, and gives its index."""
        with self.guard.watch(self.shard, None, "read"), no_exit():
            self.part = next(self.parts, None)
        tell_traffic()
        return None if self.part is None else self.part.index

    def compute(self) -> PartResult:
        """Takes the part that was read through all steps and commits it."""
        assert self.part is not None
        assert self.stages is not None
        config = self.plan.config
        part, watch = self.part, self.guard.watch
        with watch(part.shard, part.index, "prepare"):
            part = prepared(part, config, self.plan.model.size_for(config.model))
        for name, stage in self.stages.items():
            part = run_stage(name, stage, part, self.guard, self.plan.device)
        with watch(part.shard, part.index, "finish"), self.guard.journal.storing(), no_exit():
            result = finish_and_commit(part, finish_context(self.plan), self.plan.output)
        self.guard.journal.end(part.shard, part.index)
        tell_traffic()
        return result

    def fail(self, failure: Failure) -> PartResult:
        """Commits the part that was read with rows that say why it could not be computed."""
        assert self.part is not None
        watch = self.guard.watch(self.part.shard, self.part.index, "finish")
        with watch, self.guard.journal.storing():
            return fail_and_commit(self.part, finish_context(self.plan), self.plan.output, *failure)


class RunnerLostError(RuntimeError):
    """The runner's process died, or raised, in what it was asked for; the message says which."""


class NodeLostError(RunnerLostError):
    """The runner's machine died, or was taken away, and the runner with it: no fault of a part."""


def _death(error: ray.exceptions.RayError) -> str:
    """How a process ended, as far as Ray says it."""
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "low on memory" in str(error):
        return "was ended by Ray, since its node ran low on memory"
    return "died"


class Runner:
    """A ``PartRunner`` in a process of its own, as the driver sees it."""

    def __init__(self, plan: Plan, guard: Guard) -> None:
        options = actor_resources(plan.config, "fused", plan.device)
        actor = ray.remote(**options, max_restarts=0, max_task_retries=0)(PartRunner)
        self.actor = actor.remote(plan, guard)

    def ask(self, method: str, *arguments: object) -> Any:
        """
        Raises:
            RunnerLostError: it raised or died. Either way its process is gone afterwards.
            NodeLostError: its node died.
        """
        try:
            return ray.get(getattr(self.actor, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            self.end()
            cause = error.cause
            raise RunnerLostError(f"raised {type(cause).__name__}: {cause}") from error
        except ray.exceptions.RayError as error:
            verdict = self._verdict(error)
            self.end()
            if NODE_DIED in str(verdict):
                raise NodeLostError("died with its node") from verdict
            raise RunnerLostError(_death(verdict)) from verdict

    def _verdict(self, error: ray.exceptions.RayError) -> ray.exceptions.RayError:
        """What Ray says of a death once it knows; at first it may only see a lost connection."""
        deadline = time.monotonic() + VERDICT_S
        while isinstance(error, ray.exceptions.ActorUnavailableError):
            if time.monotonic() >= deadline:
                break
            time.sleep(1.0)
            try:
                ray.get(self.actor.__ray_ready__.remote())
                break  # it lives, but what it was asked for is lost
            except ray.exceptions.RayError as later:
                error = later
        return error

    def end(self) -> None:
        """Ends the process, which gives back its memory and its GPU."""
        ray.kill(self.actor)
