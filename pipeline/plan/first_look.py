"""Looks at the first shard before a run starts: a wrong key of ``input`` is seen in a second."""

from __future__ import annotations

from collections import Counter

from pipeline.config.load import ConfigError
from pipeline.plan.plan import Plan
from pipeline.records.part import Edit, Status
from pipeline.steps.read import read_shard

# Fewer samples than this say little about a dataset, so they only warn.
ENOUGH = 10
# Errors that mean that ``input`` names other files than the samples have.
WRONG_KEYS = {"NoImage": "image", "NoCaption": "caption", "NoEditText": "edits"}


def first_look(plan: Plan) -> list[str]:
    """Reads the first shard of a run that has computed nothing yet.

    Args:
        plan: as it was made. With anything published or staged, nothing is read.

    Returns:
        Warnings: lines on a shard in which no sample can be edited.

    Raises:
        ConfigError: none of its samples has what ``input`` names, so the run would only write
            failed rows. ``run.max_failed_share=1`` lets it.
    """
    if plan.published or not plan.work or any(work.staged for work in plan.work):
        return []
    shard = plan.work[0].shard
    try:
        data = shard.read(plan.config.input.storage_options)
    except OSError:  # the run tries again, and names what it cannot read
        return []
    samples = read_shard(data, plan.config.input).samples
    first = [sample.edits[0] for sample in samples if sample.edits]
    if not first or any(edit.pending for edit in first):
        return []
    line = f"shard {shard.name}: none of its {len(first)} samples can be edited: {_reasons(first)}"
    if all(edit.status == Status.SKIPPED for edit in first):
        return [line]
    is_wrong = all(edit.error in WRONG_KEYS for edit in first)
    if is_wrong and len(first) >= ENOUGH and plan.config.run.max_failed_share < 1:
        keys = sorted({f"input.{WRONG_KEYS[str(edit.error)]}" for edit in first})
        raise ConfigError(
            f"{line}. Set {' or '.join(keys)} to what the samples have; "
            "run.max_failed_share=1 starts all the same"
        )
    return [line]


def _reasons(edits: list[Edit]) -> str:
    """The kinds of errors with counts, each with the message of its first sample."""
    kinds = Counter(str(edit.error) for edit in edits)
    messages = {str(edit.error): str(edit.message) for edit in reversed(edits)}
    return "; ".join(f"{count} x {kind}: {messages[kind]}" for kind, count in kinds.most_common(3))
