"""The Ray Data graph of a run: read, prepare, mask, encode, decode, finish, commit.

The Dataset's row is a part (``pipeline/records/packing.py``). Every operator takes one row a call,
and ``target_max_block_size=1`` makes each part a block of its own, so that Ray never mixes or
splits parts and a death loses one (DESIGN.md, Flow).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy

from jobs.edit.worker import around_step
from jobs.logs import use_format
from jobs.supervise.shutdown import StopFlag
from jobs.supervise.starts import starting
from jobs.supervise.watchdog import Guard
from pipeline.config.config import Config
from pipeline.execution.operators import Around, Flow, compute_part, flow_of, read
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.packing import PART_SCHEMA, pack, unpack
from pipeline.records.part import Part
from pipeline.records.staged import PartResult
from pipeline.sizing.part_memory import PARTS_IN_ACTOR

# Reading and finishing are light beside a network: a quarter of a CPU each lets them run beside
# three pools on two cores.
TASK_CPUS = 0.25


def edit_dataset(
    plan: Plan,
    work: list[ShardWork],
    guard: Guard,
    stop: StopFlag | None,
    flow: Flow | None = None,
) -> Dataset:
    """The lazy Dataset of a wave; its rows are the JSON of ``PartResult``.

    Args:
        plan: the run.
        work: the shards of this wave.
        guard: watches over each step on a part.
        stop: once set, readers yield no further part and the first stage drops what waits for
            it, so that the stream drains.
        flow: the steps of a part; None: those of the plan.
    """
    config = plan.config
    flow = flow or flow_of(plan)
    around = partial(around_step, guard, plan.device)
    # Ray Data retries without end by default: a part that kills its worker would stay.
    task = {"num_cpus": TASK_CPUS, "max_retries": config.run.max_task_retries}
    # Ray would read a shard on every quarter of a CPU.
    bound = None if config.run.readers == "auto" else min(config.run.readers, len(work))
    reading = task | {"compute": TaskPoolStrategy(bound)}
    dataset: Dataset = ray.data.from_items(
        [{"number": number} for number in range(len(work))], override_num_blocks=len(work)
    )
    dataset = _then(
        dataset,
        partial(_read, work=work, flow=flow, guard=guard, around=around, stop=stop),
        reading,
    )
    for name in config.pools:
        first = stop if name == config.pools[0] else None
        actor = {
            "fn_constructor_args": (flow, name, guard, around, first),
            **pool_options(config, name, plan.device),
        }
        dataset = _then(dataset, StageActor, actor)
    if config.run.write_memory_bytes:
        task["memory"] = config.run.write_memory_bytes
    return _then(dataset, partial(_finish, flow=flow, around=around), task)


def _then(dataset: Dataset, operator: Any, options: dict[str, Any]) -> Dataset:
    """One more operator, which is called with one part."""
    return dataset.map_batches(operator, batch_size=1, batch_format="pyarrow", **options)


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
    """The size of a pool, what its actors reserve, and how often Ray restarts one."""
    stage = config.pool_stage(name)
    faults = {
        "max_restarts": config.run.max_restarts,
        "max_task_retries": config.run.max_task_retries,
    }
    return {
        "compute": ActorPoolStrategy(
            min_size=stage.size,
            max_size=stage.max_actors or stage.size,
            max_concurrent_calls_per_actor=PARTS_IN_ACTOR,
            max_tasks_in_flight_per_actor=PARTS_IN_ACTOR,
            enable_true_multi_threading=True,  # stages keep to their one thread themselves
        ),
        "ray_remote_args_fn": lambda: faults,
        **actor_resources(config, name, device),
    }


class StageActor:
    """An actor of a pool: one loaded network and one stage, or all of them in layout fused.

    Ray calls it in ``PARTS_IN_ACTOR`` threads. One thread of its own computes, one part after the
    other in the order of the calls, so a part is unpacked, packed and stored beside the next one.
    """

    def __init__(
        self, flow: Flow, pool: str, guard: Guard, around: Around, stop: StopFlag | None
    ) -> None:
        self.around, self.stop = around, stop
        use_format(guard.log_format)
        # Ray Data constructs in one thread and calls in others. Each thread that computes gets a
        # team of libgomp's, which lets all teams sleep between operations once they are more
        # threads than CPUs: 30,000 switches a part, and a third of the rate of two threads.
        self.thread = ThreadPoolExecutor(1, "overpaint-stages")
        with starting(guard.journal, pool):
            self.operators = self.thread.submit(flow.load, pool).result()

    def __call__(self, batch: pa.Table) -> pa.Table:
        part = self.thread.submit(self._compute, unpack(batch)).result()
        return PART_SCHEMA.empty_table() if part is None else pack(part)

    def _compute(self, part: Part) -> Part | None:
        """The part after the stages; None if the run stops before it began."""
        if self.stop is not None and self.stop.is_set():
            return None
        return compute_part(part, self.operators, self.around)


def _read(
    batch: pa.Table,
    work: list[ShardWork],
    flow: Flow,
    guard: Guard,
    around: Around,
    stop: StopFlag | None,
) -> Iterator[pa.Table]:
    for number in cast(list[int], batch.column("number").to_pylist()):
        parts = read(flow, work[number], around, ranges=True)
        while (row := _next_row(parts, flow, around, stop)) is not None:
            yield row
            row = None  # not held while the next part is read
        guard.journal.end(work[number].shard.name, None)


def _next_row(
    parts: Iterator[Part], flow: Flow, around: Around, stop: StopFlag | None
) -> pa.Table | None:
    """The next part as a row, prepared. While Ray takes the row, nothing else holds the part."""
    part = next(parts, None)
    if part is None or (stop is not None and stop.is_set()):
        return None
    return pack(compute_part(part, [flow.prepare], around))


def _finish(batch: pa.Table, flow: Flow, around: Around) -> pa.Table:
    part = compute_part(unpack(batch), flow.last, around)
    assert part.result is not None, "commit makes the result of every part"
    return pa.table({"result": [part.result.to_json()]})


def results_of(batch: pa.Table) -> list[PartResult]:
    """What the last operator returned; nothing for an empty block, of a part that was dropped."""
    if batch.num_rows == 0:  # and no columns of the last operator, which Ray did not call for it
        return []
    texts = batch.column("result").to_pylist()
    return [PartResult.from_json(text) for text in cast(list[str], texts)]


def configure_context() -> None:
    """Sets the options of Ray Data that the contract relies on, for this driver."""
    # max_restarts, max_task_retries and max_retries have no named parameter in Ray 2.60; they need
    # one by 2.64.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
    context = DataContext.get_current()
    context.target_max_block_size = 1
    context.max_errored_blocks = -1  # a lost part is found missing, and retried by the retry worker
    # Ray ends a run that gave no output for half an hour. Here a slow part may take longer, and the
    # watchdog ends a hung one; this stays as the last resort, a day.
    context.execution_no_progress_timeout_s = 86_400.0
    # A pool grows when seven of eight places are taken; Ray's default counts waiting parts outside.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 0.875
    context.enable_progress_bars = False
    context.print_on_execution_start = False
