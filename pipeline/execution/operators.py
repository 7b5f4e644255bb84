"""The steps of the flow as they are run, by the plain loop and by Ray alike: timed and guarded."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.config import Config
from pipeline.config.filters import Filtering
from pipeline.config.sample_settings import resolved_settings
from pipeline.config.stages import STAGES
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.part import Part
from pipeline.steps.filter import apply_filters
from pipeline.steps.finish import FinishContext, finish
from pipeline.steps.prepare import prepare
from pipeline.steps.publish import publish_if_complete
from pipeline.steps.read import read_parts
from pipeline.steps.write_part import failed_part, write_part
from pipeline.storage.store import Store


@dataclass(frozen=True)
class PartResult:
    """What the driver hears of a part; small values only."""

    shard: str
    part: int
    counts: dict[str, int]  # by status, filters applied
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    num_evals: dict[str, int] = field(default_factory=dict)  # of the network, by stage
    halvings: dict[str, int] = field(default_factory=dict)  # of the micro-batch, by stage
    published: bool = False  # this part completed its shard

    @property
    def num_edits(self) -> int:
        return sum(self.counts.values())

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PartResult:
        return cls(**json.loads(text))


def guarded(name: str, step: Callable[[Part], Part], part: Part) -> Part:
    """Runs a step, adds its seconds to the part, and turns what it raises into failed edits.

    A step ends bad samples itself; what arrives here is a fault of the step or of the machine.
    SystemExit is caught too: in an operator of Ray Data it wedges the run (DESIGN.md, Ray).
    """
    start = time.perf_counter()
    try:
        part = step(part)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the part fails, the run goes on
        for sample in part.samples:
            sample.fail(name, error)
    part.seconds[name] = part.seconds.get(name, 0.0) + time.perf_counter() - start
    host = socket.gethostname()
    if host not in part.hosts:
        part.hosts.append(host)
    return part


def read(work: ShardWork, config: Config) -> Iterator[Part]:
    """The parts of a shard that are not staged yet, with the time that reading took."""
    start = time.perf_counter()
    for part in read_parts(
        work.shard, config.input, config.run.part_size, skip=work.staged, max_edits=work.max_edits
    ):
        part.seconds["read"] = time.perf_counter() - start
        yield part
        start = time.perf_counter()


def prepared(part: Part, config: Config, size: int, *, threads: int = 1) -> Part:
    """The part with its images decoded, in so many threads, and brought to the model's size."""
    step = partial(
        prepare,
        size=size,
        resize=config.model.resize,
        resolution=config.output.resolution,
        max_pixels=config.input.max_pixels,
        suffixes=config.input.image,
        threads=threads,
    )
    return guarded("prepare", step, part)


def finish_context(plan: Plan) -> FinishContext:
    """What ``finish`` needs of a run, made once."""
    return FinishContext(
        config=plan.config,
        fingerprint=plan.fingerprint,
        model=plan.config.model.path,
        model_revision=plan.model.revision,
        settings_for=partial(resolved_settings, plan.config.method),
        keep_difference=plan.config.output.difference_map,
    )


def finish_and_commit(
    part: Part, context: FinishContext, output: Store, *, threads: int = 1
) -> PartResult:
    """The last steps: composite and encode images, stage the part, publish a complete shard.

    Args:
        part: as the stages leave it.
        context: of the run.
        output: of the run.
        threads: images at once; the operators of the Ray job own no more than one.
    """
    table = finish(part, context, threads=threads)
    return commit(part, table, output, context.config.filtering)


def fail_and_commit(
    part: Part, context: FinishContext, output: Store, stage: str, error: str, message: str
) -> PartResult:
    """Stages a part that could not be computed: its rows say why."""
    table = failed_part(part, context, stage, error, message)
    return commit(part, table, output, context.config.filtering)


def commit(part: Part, table: pa.Table, output: Store, filtering: Filtering) -> PartResult:
    """Puts the staged part if absent, and publishes its shard if it was the last one."""
    write_part(output, part, table)
    stats = publish_if_complete(output, part.shard, part.num_parts, filtering)
    counts = Counter(apply_filters(table, filtering).column("status").to_pylist())
    num_evals = {stage: pc.sum(table.column(f"num_evals_{stage}")).as_py() or 0 for stage in STAGES}
    return PartResult(
        shard=part.shard,
        part=part.index,
        counts=dict(counts),
        seconds=part.seconds,
        num_evals=num_evals,
        halvings=part.halvings,
        published=stats is not None,
    )
