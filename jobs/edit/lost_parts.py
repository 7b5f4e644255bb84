"""Lost parts: after the waves a retry worker computes what is not staged, or it fails by name.

A part that is lost there again in a step that takes one sample after the other loses the sample
that the step was at; the other samples are computed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from jobs.edit.part_runner import Failure, NodeLostError, NotStoredError, Runner, RunnerLostError
from jobs.edit.progress import RunProgress
from jobs.logs import tell
from jobs.supervise.journal import Entry, Journal
from jobs.supervise.shutdown import StopFlag
from jobs.supervise.starts import tell_reports
from jobs.supervise.watchdog import Guard
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.staged import PartResult
from pipeline.republish.retry_failed import publish_staged

# Of one part, after which all of it fails: each costs a time limit and a start of the worker.
MAX_LOSSES = 32


class CannotLoadError(RuntimeError):
    """The retry worker cannot load the networks: a fault of the machine, not of a part."""


def run_missing(plan: Plan, progress: RunProgress, guard: Guard, stop: StopFlag) -> None:
    """Retries what the waves left, one part at a time. A part that is lost again fails.

    A part is missing when its actor died more often than ``run.max_task_retries`` allows, or when
    an operator outside the stages raised. A shard that cannot be read stays unpublished.
    """
    tell_reports(guard.journal)  # first the reasons, then what follows from them
    left = publish_staged(plan.still_to_do())
    if not left.work or stop.is_set():
        return
    message = f"{len(left.work)} shards miss parts; retrying these parts one by one"
    tell(message, level="warning")
    runners = _Runners(_fused(left), guard)
    try:
        for work in left.work:
            try:
                _run_shard(work, runners, progress, guard.journal, stop)
            except RunnerLostError as error:
                name = work.shard.name
                tell(f"shard {name} stays unpublished: {error}", level="error", shard=name)
    except CannotLoadError as error:
        tell(f"the retry worker {error}", level="error")
    finally:
        runners.end()


class _Runners:
    """The retry worker, and a new one after each loss."""

    def __init__(self, plan: Plan, guard: Guard) -> None:
        self.plan, self.guard = plan, guard
        self.runner: Runner | None = None
        self.load_failures = 0  # in a row
        self.nodes_lost = 0

    def ask(self, method: str, *arguments: object) -> object:
        """
        Raises:
            RunnerLostError: the worker died or raised; the next call starts a new one.
            NodeLostError: its node died; at most ``run.max_restarts`` nodes may.
        """
        if self.runner is None:
            self.runner = Runner(self.plan, self.guard)
        try:
            return self.runner.ask(method, *arguments)
        except RunnerLostError as error:
            self.runner = None
            if isinstance(error, NodeLostError):
                self.nodes_lost += 1
                if 0 <= self.plan.config.run.max_restarts < self.nodes_lost:
                    raise RunnerLostError(str(error)) from error
            raise

    def load(self) -> bool:
        """Whether the worker has its networks. If not, the next worker has no shard open yet.

        Raises:
            CannotLoadError: loading failed more than ``run.max_start_retries`` times in a row.
        """
        try:
            self.ask("load")
        except NodeLostError:
            return False
        except RunnerLostError as error:
            self.load_failures += 1
            if self.load_failures > self.plan.config.run.max_start_retries:
                raise CannotLoadError(f"{error} while it loaded the model") from error
            return False
        self.load_failures = 0
        return True

    def end(self) -> None:
        if self.runner is not None:
            self.runner.end()


def _run_shard(
    work: ShardWork, runners: _Runners, progress: RunProgress, journal: Journal, stop: StopFlag
) -> None:
    """Computes the missing parts of a shard in order; a part, or a sample, that is lost here fails.

    A part whose node was lost is retried.

    Raises:
        RunnerLostError: the shard cannot be read, a part not be stored, or even the failed rows
            not be staged. The shard stays unpublished.
        CannotLoadError: see there.
    """
    lost = _Lost(journal, work.shard.name)
    opened = False
    while not stop.is_set():
        try:
            if not opened:
                runners.ask("open", work)
                opened = True
            index = runners.ask("next")
        except NodeLostError:
            opened = False
            continue
        except RunnerLostError as error:
            raise RunnerLostError(f"reading it {_how(journal, work.shard.name, error)}") from error
        if index is None:
            return
        assert isinstance(index, int)
        if index not in lost.parts and not runners.load():
            opened = False
            continue
        try:
            samples = dict(lost.samples[index])
            if index in lost.parts:
                result = runners.ask("fail", lost.parts[index], samples)
            else:
                result = runners.ask("compute", samples)
        except NodeLostError:
            opened = False
            continue
        except NotStoredError as error:
            # Its rows would be small enough to be stored, and would stay for good.
            raise RunnerLostError(f"storing part {index} {error}") from error
        except RunnerLostError as error:
            if index in lost.parts:
                raise RunnerLostError(f"staging part {index} {error}") from error
            lost.add(index, error)
            opened = False
            continue
        if index in lost.parts:
            progress.metrics.lost.inc()
        assert isinstance(result, PartResult)
        work = replace(work, staged=work.staged | {result.part_id})
        progress.update(result)


class _Lost:
    """What the retry worker has lost of a shard: parts, or single samples of them."""

    def __init__(self, journal: Journal, shard: str) -> None:
        self.journal, self.shard = journal, shard
        self.parts: dict[int, Failure] = {}
        self.samples: dict[int, dict[str, Failure]] = defaultdict(dict)  # part -> key -> failure
        self.met: dict[int, list[str]] = defaultdict(list)  # part -> key at each loss

    def add(self, part: int, error: RunnerLostError) -> None:
        """The worker was lost while it computed this part: fails the sample that it was at.

        The first sample of a part fails at once: the stream has lost the part before. It hid the
        others, which are tried once more. The whole part fails where no sample is known, or one
        that had failed, or after too many losses.
        """
        entry = self.journal.entry(self.shard, part)
        samples, met = self.samples[part], self.met[part]
        key = entry.sample if entry else None
        if key is None or key in samples or len(met) == MAX_LOSSES - 1:
            self.parts[part] = failure(entry, error, "part")
            return
        if not met or key in met:
            samples[key] = failure(entry, error, "sample")
        met.append(key)


def failure(entry: Entry | None, error: RunnerLostError, what: str) -> Failure:
    """What the rows of a lost part or sample say: the step, the error, and a sentence."""
    step = entry.step if entry else "compute"
    if entry and entry.timed_out_s is not None:
        return step, "TimedOut", f"timed out after {entry.timed_out_s:g} s, also when retried alone"
    message = f"the worker that computed this {what} {error}, also when retried alone"
    return step, "PartLost", message


def _how(journal: Journal, shard: str, error: RunnerLostError) -> str:
    entry = journal.entry(shard, None)
    if entry and entry.timed_out_s is not None:
        return f"timed out after {entry.timed_out_s:g} s"
    return str(error)


def _fused(plan: Plan) -> Plan:
    """The plan without its list of shards, in one actor: all layouts write the same bytes."""
    run = plan.config.run.model_copy(update={"layout": "fused"})
    return replace(plan.without_shards(), config=plan.config.model_copy(update={"run": run}))
