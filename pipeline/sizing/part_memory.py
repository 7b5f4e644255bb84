"""Main memory that the parts in an actor take, which Ray is asked to reserve."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.config.config import Config
from pipeline.plan.plan import Plan
from pipeline.sizing.costs import Costs
from pipeline.sizing.pools import Node

# One computes, and the other is handed over meanwhile: the next one is unpacked and waits, or the
# last one is packed and written into Ray's shared memory.
PARTS_IN_ACTOR = 2
FLOAT32 = 4
HALF_DTYPES = ("float16", "bfloat16")


def counted_edit_bytes(plan: Plan) -> dict[str, float]:
    """Bytes of an edit after each step, by the shapes of its arrays.

    As if each image had one edit; edits of one image share all but the maps and their own image.
    Files of a sample, texts and Imagic's fitted factors are not counted.
    """
    config, model = plan.config, plan.model
    method, side = config.method, model.sizes_for(config.model).largest
    image, cells = 3 * side**2, (side / model.latent_scale) ** 2
    latent = model.latent_channels * cells
    maps = 2 * FLOAT32 * cells  # the mask and what it was cut from
    masked = image + FLOAT32 * latent + maps
    if method.imagic is not None:
        encoded = FLOAT32 * latent * (method.imagic.seeds if method.imagic.form == "full" else 0)
    else:
        levels = max(1, math.floor(method.steps * method.ratio + 0.5)) + 1
        encoded = levels * latent * (2 if config.model.dtype in HALF_DTYPES else FLOAT32)
    decoded = 2 * image + maps
    return {
        "prepare": image,
        "mask": masked,
        "encode": masked + encoded,
        "decode": decoded,
        "score": decoded,
    }


def reserved_bytes(
    config: Config, pool: str, stages: Sequence[str], costs: Costs, nodes: Sequence[Node]
) -> int:
    """Main memory that an actor of a pool reserves: as configured, else for its parts.

    Args:
        config: of the run.
        pool: its name.
        stages: that its actors run.
        costs: with the bytes of an edit after each stage; without them nothing is reserved.
        nodes: of the cluster; if one does not say how much memory it has, nothing is reserved.
    """
    given = config.pool_stage(pool).memory_bytes
    if given is not None:
        return given
    if not all(node.memory_bytes for node in nodes):
        return 0
    largest = max(costs.edit_bytes.get(stage, 0.0) for stage in stages)
    return math.ceil(PARTS_IN_ACTOR * config.run.part_size * largest)
