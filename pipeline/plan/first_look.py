"""Looks at the first shard before a run starts: a wrong key of ``input`` is seen in seconds.

It also counts the shard's edits, so that the plan knows about how many the run has.

The shard is read in a process of its own: it may be larger than the driver's memory.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from pipeline.config.input import Input
from pipeline.config.load import ConfigError
from pipeline.plan.plan import Plan
from pipeline.records.part import Status
from pipeline.steps.read import read_shard
from pipeline.storage.shards import InputShard

TIMEOUT_S = 120.0
# Fewer samples than this say little about a dataset, so they only warn.
ENOUGH = 10
# Errors that mean that ``input`` names other files than the samples have.
WRONG_KEYS = {"NoImage": "image", "NoCaption": "caption", "NoEditText": "edits"}


@dataclass(frozen=True)
class FirstLook:
    """What the first shard tells of a run."""

    lines: list[str]  # warnings: a line on a shard in which no sample can be edited
    edits_per_byte: float = 0.0  # of the tar; 0: not known


@dataclass(frozen=True)
class Look:
    """A shard, and why no sample of it can be edited, by kind of error; none: some can be."""

    num_edits: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)  # of the first sample of each kind
    all_skipped: bool = False

    @property
    def num_samples(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        kinds = Counter(self.counts).most_common(3)
        return "; ".join(f"{count} x {kind}: {self.messages[kind]}" for kind, count in kinds)


def first_look(plan: Plan) -> FirstLook:
    """Reads the first shard of a run that has computed nothing yet.

    Args:
        plan: as it was made. With anything published or staged, nothing is read.

    Raises:
        ConfigError: none of its samples has what ``input`` names, so the run would only write
            failed rows. ``run.max_failed_share=1`` lets it.
    """
    if plan.published or not plan.work or any(work.staged for work in plan.work):
        return FirstLook([])
    shard = plan.work[0].shard
    look = _in_a_process(shard, plan.config.input)
    if look is None:
        return FirstLook([])
    edits_per_byte = look.num_edits / max(1, shard.size)
    if not look.counts:
        return FirstLook([], edits_per_byte)
    line = f"shard {shard.name}: none of its {look.num_samples} samples can be edited: {look}"
    is_wrong = look.counts.keys() <= WRONG_KEYS.keys() and look.num_samples >= ENOUGH
    if look.all_skipped or not is_wrong or plan.config.run.max_failed_share >= 1:
        return FirstLook([line], edits_per_byte)
    keys = sorted(f"input.{WRONG_KEYS[kind]}" for kind in look.counts)
    raise ConfigError(
        f"{line}. Set {' or '.join(keys)} to what the samples have; "
        "run.max_failed_share=1 starts all the same"
    )


def look_at(shard: InputShard, config: Input) -> Look:
    """How many edits a shard has, and what is wrong with all of its samples."""
    data, _ = shard.open(config.storage_options)
    samples = read_shard(data, config, ranges=True).samples
    num_edits = sum(len(sample.edits) for sample in samples)
    first = [sample.edits[0] for sample in samples if sample.edits]
    if not first or any(edit.pending for edit in first):
        return Look(num_edits)
    counts = Counter(str(edit.error) for edit in first)
    messages = {str(edit.error): str(edit.message) for edit in reversed(first)}
    return Look(
        num_edits, dict(counts), messages, all(edit.status == Status.SKIPPED for edit in first)
    )


def _in_a_process(shard: InputShard, config: Input) -> Look | None:
    """``look_at``; None if the shard cannot be read, which the run itself then names."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_look_and_send, args=(shard, config, sender), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(TIMEOUT_S) else None
    except EOFError:  # it died
        return None
    finally:
        process.kill()
        process.join()


def _look_and_send(shard: InputShard, config: Input, sender: Connection) -> None:
    look = None
    with suppress(Exception, SystemExit):  # the run reads it again, and says what it is
        look = look_at(shard, config)
    sender.send(look)
