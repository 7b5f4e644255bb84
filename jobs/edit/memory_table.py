"""Prints what each pool's actors need of their device's memory, and the largest sizes that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from jobs.logs import is_json, tell
from jobs.terminal import show, show_table
from pipeline.plan.plan import Plan
from pipeline.sizing.device_memory import ActorMemory, StageMemory, actors_memory
from pipeline.sizing.estimate import Estimate
from pipeline.sizing.part_memory import PARTS_IN_ACTOR
from pipeline.sizing.pools import Node

COLUMNS = (
    *("stage", "weights", "row", "image", "part", "needed"),
    *("rows fit", "images fit"),
)


def print_memory(plan: Plan, expected: Estimate, nodes: Sequence[Node]) -> None:
    """Counts the model's memory from its configs and prints it; loads torch.

    Args:
        plan: with sizes.
        expected: its estimate.
        nodes: of the cluster.
    """
    from pipeline.models.counted_fit import count_fit  # here: these load torch
    from pipeline.models.counted_memory import count_memory

    config, model = plan.config, plan.model
    try:
        counted = count_memory(model, config.model)
        if config.method.imagic is not None:
            counted = replace(counted, of_fit=count_fit(model, config.model, config.method.imagic))
    except (OSError, ValueError, NotImplementedError, RuntimeError) as error:
        tell(f"warning: the model's memory is not counted: {error}", level="warning")
        return
    cells = int((model.sizes_for(config.model).largest / model.latent_scale) ** 2)
    actors = actors_memory(
        *(config, plan.device, expected, nodes, counted, model.latent_channels * cells),
        config.plan.device_memory_bytes,
    )
    if is_json():
        tell("memory", actors=[asdict(actor) for actor in actors])
        return
    rows = [_row(actor, name, stage) for actor in actors for name, stage in actor.stages.items()]
    show_table(COLUMNS, rows, title="memory of an actor")
    for line in _lines(actors):
        show(line)


def _row(actor: ActorMemory, name: str, stage: StageMemory) -> list[str]:
    return [
        *(name, size_text(actor.weights), size_text(stage.row)),
        *(size_text(stage.image), size_text(stage.part), size_text(stage.needed)),
        *("" if size is None else str(size) for size in (stage.micro_batch, stage.vae_micro_batch)),
    ]


def _lines(actors: list[ActorMemory]) -> list[str]:
    """What the table leaves open, in sentences."""
    lines = []
    if any(actor.parts for actor in actors):
        parts = ", ".join(f"{actor.pool} {size_text(actor.parts)}" for actor in actors)
        line = f"{PARTS_IN_ACTOR} parts in an actor's main memory: {parts}"
        sizes = [actor.part_size for actor in actors if actor.part_size is not None]
        lines.append(f"{line}; run.part_size up to {min(sizes)} fits" if sizes else line)
    for actor in actors:
        if actor.stages and actor.loading > max(one.needed for one in actor.stages.values()):
            lines.append(f"{actor.pool}: loading takes the most, {size_text(actor.loading)}")
        if actor.usable is None:
            lines.append(
                f"{actor.pool}: how much memory its device has is not known; "
                "plan.device_memory_bytes names it"
            )
            continue
        lines += [
            f"{actor.pool}: {name} needs {size_text(stage.needed)}, of {size_text(actor.usable)} "
            f"that an actor may use: lower stages.{name}.micro_batch or model.vae_micro_batch to "
            "what fits (in a new output)"
            for name, stage in actor.stages.items()
            if stage.needed > actor.usable
        ]
    return lines


def size_text(num_bytes: int | None) -> str:
    """ "9.5 GB", "12 MB" or "0.75 MB"; nothing for None."""
    if num_bytes is None:
        return ""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    megabytes = num_bytes / 1e6
    return f"{megabytes:.0f} MB" if megabytes >= 10 else f"{megabytes:.2g} MB"
