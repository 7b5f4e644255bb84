"""What every worker of Ray does around a step: watchdog, journal, counts, a check of its device.

From the outside in, a stage has these layers, each for a reason of its own:

1. ``StageActor`` (jobs/edit/graph.py): a process of Ray with one loaded network and one thread.
2. ``around_step`` (here): ends a process that hangs or whose device is lost.
3. ``compute_part`` (pipeline/execution/operators.py): times the step, turns errors into rows.
4. ``OomRetry`` (pipeline/stages/oom_retry.py): halves the micro-batch when memory runs out.
5. the stage itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from jobs.edit.metrics import tell_gpu_memory, tell_traffic
from jobs.supervise.compilations import counting_compilations
from jobs.supervise.watchdog import Guard, end_process
from pipeline.config.stages import SCORE_STAGE, STAGES
from pipeline.execution.operators import COMMIT

STAGE_NAMES = frozenset({*STAGES, SCORE_STAGE})


@contextmanager
def around_step(
    guard: Guard, device: str, shard: str, part: int | None, step: str
) -> Iterator[None]:
    """Around one step on one part, in a worker.

    A process whose device is lost is ended: otherwise every later part would fail there for the
    fault of one. Ray starts another process and retries the part.

    Args:
        guard: the watchdog and the journal of the run.
        device: "cpu" or "cuda", of the stages.
        shard, part, step: where the worker is; part None is the reader between two parts.
    """
    is_stage = step in STAGE_NAMES
    storing = guard.journal.storing() if step == COMMIT else nullcontext()
    counting = counting_compilations(guard.journal, step) if is_stage else nullcontext()
    with guard.watch(shard, part, step), storing, counting, _no_exit():
        yield
        fault = _device_fault(device) if is_stage else None
    if fault is not None:
        end_process(f"part {part} of shard {shard}: {step}: {fault}")
    if is_stage:
        tell_gpu_memory(step)
    else:
        tell_traffic()
    if step == COMMIT:
        guard.journal.end(shard, part)


def _device_fault(device: str) -> str | None:
    if device != "cuda":
        return None
    from pipeline.models.device import device_fault  # here: it loads torch

    return device_fault(device)


@contextmanager
def _no_exit() -> Iterator[None]:
    """Turns SystemExit into an error: in an operator it would wedge the run (DESIGN.md, Ray)."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"sys.exit({error.code!r}) in an operator") from error
