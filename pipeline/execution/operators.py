"""The way of a part through a run, written once.

The Ray graph, the local loop, the retry worker and the calibration all take the same ``Flow`` and
call ``read`` and ``compute_part``. They differ in where the operators run and in what is done
around each of them (``around``: a watchdog under Ray, nothing in the local loop).
"""

from __future__ import annotations

import errno
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.config import Config
from pipeline.config.sample_settings import resolved_settings
from pipeline.config.stages import STAGES
from pipeline.plan.code import check_same_code, code_hash
from pipeline.plan.plan import Plan, ShardWork
from pipeline.process.allocator import use_expandable_segments
from pipeline.records.part import Part
from pipeline.records.staged import PartResult
from pipeline.steps.filter import apply_filters
from pipeline.steps.finish import FinishContext, finish
from pipeline.steps.prepare import Preparation, prepare
from pipeline.steps.publish import publish_if_complete
from pipeline.steps.read import owned, read_parts
from pipeline.steps.write_part import write_part
from pipeline.storage.retry import StorageError
from pipeline.storage.store import Store

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
COMMIT = "commit"  # the operator that writes a part and publishes a complete shard
# What is done around a step: takes shard, part (None: the reader, between two parts) and step.
Around = Callable[[str, int | None, str], AbstractContextManager[object]]


def nothing_around(shard: str, part: int | None, step: str) -> AbstractContextManager[object]:
    """No watchdog and no journal: for the local loop, notebooks and tests."""
    return nullcontext()


@dataclass(frozen=True)
class Operator:
    """A named step: takes a part, returns a part.

    Attributes:
        name: of the step, in messages, timings and the rows' column ``stage``.
        run: the step.
        fails_edits: an exception becomes failed edits of the part, so that the run goes on. False
            for what writes: there it leaves the part undone, as the error of a store or of a full
            disk always does.
        by_sample: it takes one sample after the other, and names each in its heartbeats.
    """

    name: str
    run: Callable[[Part], Part]
    fails_edits: bool = True
    by_sample: bool = False


@dataclass(frozen=True)
class Flow:
    """The steps of a run in their order. A value that travels to every worker, so it is small."""

    read: Callable[[ShardWork], Iterator[Part]]
    prepare: Operator
    load: Callable[[str], list[Operator]]  # of a pool ("fused": all stages); loads its networks
    finish: Operator
    commit: Operator

    @property
    def last(self) -> list[Operator]:
        """What follows the stages, in one process: a finished part does not travel."""
        return [self.finish, self.commit]


def flow_of(plan: Plan, *, threads: int = 1) -> Flow:
    """The steps of a run.

    Args:
        plan: the run; its list of shards is not in the flow.
        threads: images that prepare and finish decode and encode at once.
    """
    config, output = plan.config, plan.output
    context = FinishContext(
        config=config,
        fingerprint=plan.fingerprint,
        model=config.model.path,
        model_revision=plan.model.content,
        settings_for=partial(resolved_settings, config.method),
        keep_difference=config.output.difference_map,
    )
    prepared = partial(
        prepare,
        how=Preparation.of(config, plan.model.sizes_for(config.model)),
        threads=threads,
    )
    finished = partial(finish, context=context, threads=threads)
    committed = partial(
        commit, output=output, config=config, fingerprint=plan.fingerprint, code=code_hash()
    )
    return Flow(
        read=partial(_read, config=config),
        prepare=Operator("prepare", prepared, by_sample=True),
        load=partial(_load, config, plan.device, code_hash()),
        finish=Operator("finish", finished, fails_edits=False, by_sample=True),
        commit=Operator(COMMIT, committed, fails_edits=False),
    )


def read(
    flow: Flow, work: ShardWork, around: Around = nothing_around, *, ranges: bool = False
) -> Iterator[Part]:
    """The parts of a shard that are not staged yet.

    Args:
        ranges: the parts are prepared and packed next, so their files are not read before.

    Raises:
        BadShardError, ChangedError, OSError: see ``read_parts``.
    """
    parts = flow.read(work)
    while True:
        start = time.perf_counter()
        with around(work.shard.name, None, "read"):
            part = next(parts, None)
            if part is not None and not ranges:
                part.samples = owned(part.samples)
        if part is None:
            return
        part.seconds["read"] = time.perf_counter() - start
        yield part


def compute_part(
    part: Part, operators: Iterable[Operator], around: Around = nothing_around
) -> Part:
    """Takes a part through operators, one after the other.

    Each adds its seconds to the part, which end in the marker.

    Args:
        part: as the operator before the first one left it.
        operators: in the order of the flow.
        around: entered for each operator.

    Raises:
        Exception: what an operator raised whose errors do not fail edits.
    """
    for operator in operators:
        with around(part.shard, part.index, operator.name):
            part = _run(operator, part)
    return part


def commit(part: Part, output: Store, config: Config, fingerprint: str, code: str) -> Part:
    """Puts a finished part if absent, and publishes its shard if it was the last one.

    Returns:
        The part, with its ``result``.

    Raises:
        OSError: the store does not take it. A storage error is never a row.
        CodeDiffersError: this worker has other sources than the driver.
    """
    check_same_code(code)
    filtering = config.filtering
    for sample in part.samples:  # the table has what is written of them
        sample.encoded, sample.encoded_mask, sample.extras = None, None, {}
    write_part(output, part, fingerprint, code)
    table = part.table
    assert table is not None, "finish makes the table of every part"
    # What was staged is read again where the shard is published: then it is in memory but once.
    table = part.table = table.drop_columns(["members"])
    pa.default_memory_pool().release_unused()
    stats = publish_if_complete(output, part.shard, filtering)
    statuses = cast(list[str], apply_filters(table, filtering).column("status").to_pylist())
    num_evals = {stage: pc.sum(table.column(f"num_evals_{stage}")).as_py() or 0 for stage in STAGES}
    part.result = PartResult(
        shard=part.shard,
        part=part.index,
        part_id=(part.generation, part.num_parts, part.index),
        counts=dict(Counter(statuses)),
        seconds=part.seconds,
        num_evals=num_evals,
        halvings=part.halvings,
        published=stats is not None,
    )
    return part


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is of a local disk (of compiled code, for example)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return True
        error = error.__cause__ or error.__context__
    return False


def _run(operator: Operator, part: Part) -> Part:
    """Runs an operator; times it, and notes on which host.

    A stage ends bad samples itself; what arrives here is a fault of the step or of the machine.
    SystemExit is caught too: in an operator of Ray Data it wedges the run (DESIGN.md, Ray).
    """
    start = time.perf_counter()
    try:
        part = operator.run(part)
    except (Exception, SystemExit) as error:
        if not operator.fails_edits or isinstance(error, StorageError) or _is_full_disk(error):
            raise
        part.fail(operator.name, error)
    spent = time.perf_counter() - start
    part.seconds[operator.name] = part.seconds.get(operator.name, 0.0) + spent
    host = socket.gethostname()
    if host not in part.hosts:
        part.hosts.append(host)
    return part


def _read(work: ShardWork, config: Config) -> Iterator[Part]:
    return read_parts(
        *(work.shard, config.input, config.run.part_size),
        group_shapes=config.model.groups_shapes,
        skip=work.staged,
        max_edits=work.max_edits,
        ranges=True,
    )


def _load(config: Config, device: str, code: str, pool: str) -> list[Operator]:
    """The stages of a pool as operators, over loaded networks."""
    if device == "cuda":
        use_expandable_segments()  # before torch is imported
    # Imported here: readers and writers import this module too, and start without torch.
    from pipeline.stages.build import load_stages

    check_same_code(code)
    return [Operator(name, stage) for name, stage in load_stages(config, pool, device).items()]
