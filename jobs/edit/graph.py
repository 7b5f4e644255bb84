"""The Ray Data graph of a run: read, prepare, mask, encode, decode, finish, write part, publish.

The Dataset's row is a part: its shard, its index, and its Arrow bytes. Every operator takes one row
a call, and ``target_max_block_size=1`` makes each part a block of its own, so that Ray never mixes
or splits parts and a death loses one (DESIGN.md, Flow).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from jobs.edit.metrics import tell_gpu_memory, tell_traffic
from jobs.edit.steps import STEPS, Steps
from jobs.logs import use_format
from jobs.supervise.shutdown import StopFlag
from jobs.supervise.starts import starting
from jobs.supervise.watchdog import Guard, end_process
from pipeline.config.config import Config
from pipeline.execution.operators import PartResult, finish_context, guarded
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.part import Part
from pipeline.steps.finish import FinishContext
from pipeline.storage.store import Store

# Reading and finishing are light beside a network: a quarter of a CPU each lets them run beside
# three pools on two cores.
TASK_CPUS = 0.25
PART_SCHEMA = pa.schema(
    [("shard", pa.string()), ("part", pa.int32()), ("payload", pa.large_binary())]
)


def edit_dataset(
    plan: Plan, work: list[ShardWork], guard: Guard, stop: StopFlag | None, steps: Steps = STEPS
) -> Dataset:
    """The lazy Dataset of a wave; its rows are the JSON of ``PartResult``.

    Args:
        plan: the run.
        work: the shards of this wave.
        guard: watches over each step on a part.
        stop: once set, readers yield no further part and the first stage drops what waits for
            it, so that the stream drains.
        steps: what is done with a part.
    """
    config = plan.config
    dataset = ray.data.from_items(
        [{"number": number} for number in range(len(work))], override_num_blocks=len(work)
    )
    options = {"batch_size": 1, "batch_format": "pyarrow"}
    # Ray Data's own number of retries is without end: a part that kills its worker would stay.
    task = {"num_cpus": TASK_CPUS, "max_retries": config.run.max_task_retries}
    size = plan.model.size_for(config.model)
    read_step = partial(_read, work=work, config=config, guard=guard, stop=stop, steps=steps)
    dataset = dataset.map_batches(read_step, **options, **task)
    prepare_step = partial(_prepare, config=config, size=size, guard=guard, steps=steps)
    dataset = dataset.map_batches(prepare_step, **options, **task)
    for name in config.pools:
        first = stop if name == config.pools[0] else None
        dataset = dataset.map_batches(
            StageActor,
            fn_constructor_args=(config, name, plan.device, guard, first, steps),
            **options,
            **pool_options(config, name, plan.device),
        )
    # Not the plan: it lists every shard of the run, and each worker would get that list.
    finish_step = partial(
        _finish, context=finish_context(plan), output=plan.output, guard=guard, steps=steps
    )
    return dataset.map_batches(finish_step, **options, **task)


def actor_resources(config: Config, name: str, device: str) -> dict[str, Any]:
    """What Ray reserves for an actor of a pool."""
    stage = config.pool_stage(name)
    resources: dict[str, Any] = {"num_cpus": stage.cpus}
    gpus = stage.gpus_per_actor(device)
    if gpus:
        resources["num_gpus"] = gpus
    if stage.memory_bytes:
        resources["memory"] = stage.memory_bytes
    return resources


def pool_options(config: Config, name: str, device: str) -> dict[str, Any]:
    """The size of a pool, what its actors reserve, and how often Ray brings one back."""
    stage = config.pool_stage(name)
    faults = {
        "max_restarts": config.run.max_restarts,
        "max_task_retries": config.run.max_task_retries,
    }
    return {
        "compute": ActorPoolStrategy(
            min_size=stage.size,
            max_size=stage.max_actors or stage.size,
        ),
        "ray_remote_args_fn": lambda: faults,
        **actor_resources(config, name, device),
    }


class StageActor:
    """An actor of a pool: one loaded network and one stage, or all three in layout fused."""

    def __init__(
        self,
        config: Config,
        name: str,
        device: str,
        guard: Guard,
        stop: StopFlag | None,
        steps: Steps,
    ) -> None:
        self.device, self.guard, self.stop = device, guard, stop
        use_format(guard.log_format)
        # Ray Data constructs in one thread and calls in another. Each thread that computes gets a
        # team of libgomp's, which lets all teams sleep between operations once they are more
        # threads than CPUs: 30,000 switches a part, and a third of the rate of two threads.
        self.thread = ThreadPoolExecutor(1, "overpaint-stages")
        with starting(guard.journal, name):
            self.stages = self.thread.submit(steps.load, config, name, device).result()

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.stop is not None and self.stop.is_set():
            return PART_SCHEMA.empty_table()
        return self.thread.submit(self._compute, batch).result()

    def _compute(self, batch: pa.Table) -> pa.Table:
        part = _part_of(batch)
        for name, stage in self.stages.items():
            part = run_stage(name, stage, part, self.guard, self.device)
        return _row_of(part)


def run_stage(
    name: str, stage: Callable[[Part], Part], part: Part, guard: Guard, device: str
) -> Part:
    """A stage over a part, watched over. A process whose device is lost with it is ended.

    Otherwise every later part of this process would fail for the fault of one.
    """
    with guard.watch(part.shard, part.index, name):
        part = guarded(name, stage, part)
        fault = _device_fault(device)
    if fault is not None:
        end_process(f"part {part.index} of shard {part.shard}: {name}: {fault}")
    tell_gpu_memory(name)
    return part


def _device_fault(device: str) -> str | None:
    if device != "cuda":
        return None
    from pipeline.models.device import device_fault  # here: it loads torch

    return device_fault(device)


def _read(
    batch: pa.Table,
    work: list[ShardWork],
    config: Config,
    guard: Guard,
    stop: StopFlag | None,
    steps: Steps,
) -> Iterator[pa.Table]:
    for number in batch.column("number").to_pylist():
        shard = work[number].shard.name
        parts = steps.read(work[number], config)
        while True:
            with guard.watch(shard, None, "read"), no_exit():
                part = next(parts, None)
            tell_traffic()
            if part is None or (stop is not None and stop.is_set()):
                break
            yield _row_of(part)
        guard.journal.end(shard, None)


def _prepare(batch: pa.Table, config: Config, size: int, guard: Guard, steps: Steps) -> pa.Table:
    part = _part_of(batch)
    with guard.watch(part.shard, part.index, "prepare"):
        return _row_of(steps.prepare(part, config, size))


def _finish(
    batch: pa.Table, context: FinishContext, output: Store, guard: Guard, steps: Steps
) -> pa.Table:
    part = _part_of(batch)
    with guard.watch(part.shard, part.index, "finish"), guard.journal.storing(), no_exit():
        result = steps.finish(part, context, output)
    guard.journal.end(part.shard, part.index)
    tell_traffic()
    return pa.table({"result": [result.to_json()]})


@contextmanager
def no_exit() -> Iterator[None]:
    """Turns SystemExit into an error: in an operator it would wedge the run (DESIGN.md, Ray)."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"sys.exit({error.code!r}) in an operator") from error


def results_of(batch: pa.Table) -> list[PartResult]:
    """What the last operator said; nothing in an empty block, of a part that was dropped."""
    if batch.num_rows == 0:  # and no columns of the last operator, which Ray did not call for it
        return []
    return [PartResult.from_json(text) for text in batch.column("result").to_pylist()]


def configure_context() -> None:
    """Ray Data's settings that the contract relies on; they hold for this driver."""
    # max_restarts, max_task_retries and max_retries have no named parameter in Ray 2.60; they need
    # one by 2.64.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
    context = DataContext.get_current()
    context.target_max_block_size = 1
    context.max_errored_blocks = -1  # a part that is lost is found missing, and run again alone
    # Ray ends a run that gave no output for half an hour. Here a slow part may take longer and a
    # hung one is ended by jobs/supervise/watchdog.py; this stays as the last resort, a day.
    context.execution_no_progress_timeout_s = 86_400.0
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _part_of(batch: pa.Table) -> Part:
    assert batch.num_rows == 1, f"a call takes one part, not {batch.num_rows}"
    return Part.from_bytes(batch.column("payload")[0].as_py())


def _row_of(part: Part) -> pa.Table:
    row = {"shard": part.shard, "part": part.index, "payload": part.to_bytes()}
    return pa.Table.from_pylist([row], schema=PART_SCHEMA)
