"""Runs the steps that read and write files, from read to publish, with a fake edit between."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config.buckets import Sizes
from pipeline.config.config import Config
from pipeline.plan.filters import FILTERS_FILE, FiltersInForce
from pipeline.records.part import Part, Status
from pipeline.steps.finish import FinishContext, finish
from pipeline.steps.prepare import Preparation, prepare
from pipeline.steps.publish import publish_if_complete
from pipeline.steps.read import read_parts
from pipeline.steps.write_part import write_part
from pipeline.storage.shards import expand_shards
from pipeline.storage.store import Store

SIZE = 32  # side of the images in pixels
GRID = 4  # side of the latent grid in cells


def make_config(shards: str = "in/*.tar", **sections: Any) -> Config:
    """A config from sections given as dicts."""
    return Config.model_validate(
        {
            **sections,
            "input": {"shards": shards, **sections.get("input", {})},
            "output": {"path": "out", "format": "png", **sections.get("output", {})},
        }
    )


def make_context(config: Config, **changes: Any) -> FinishContext:
    """The context of a run whose method has one setting."""
    context = FinishContext(
        config=config,
        fingerprint="f00d",
        model="bundled",
        model_revision="r1",
        settings_for=lambda sample: {"encode_ratio": 0.8, **sample.settings},
    )
    return replace(context, **changes)


def table_of(part: Part, context: FinishContext, *, threads: int = 1) -> pa.Table:
    """The table that ``finish`` makes of a part."""
    table = finish(part, context, threads=threads).table
    assert table is not None
    return table


def invert(part: Part) -> Part:
    """A stand-in for the three stages: inverts each image and masks an off-center square.

    An edit whose text equals the caption gets an empty mask and is unchanged.
    """
    for sample in part.samples:
        for edit in sample.pending:
            edit.mask = np.zeros((GRID, GRID), np.float32)
            edit.difference = np.linspace(0, 1, GRID * GRID, dtype=np.float32).reshape(GRID, GRID)
            edit.num_evals_mask, edit.num_evals_decode = 20, 80
            if edit.edit_text == sample.caption:
                edit.status, edit.stage = Status.UNCHANGED, "mask"
                continue
            edit.mask[1:3, 1:4] = 1
            assert sample.image is not None
            edit.image = 255 - sample.image
    return part


def prepared(part: Part, config: Config) -> Part:
    """Calls ``prepare`` with the configuration's settings and this file's size."""
    return prepare(part, Preparation.of(config, Sizes(SIZE)))


def run(
    config: Config,
    store: Store,
    *,
    edit: Callable[[Part], Part] = invert,
    order: Callable[[Iterable[Part]], Iterable[Part]] = list,
) -> None:
    """Runs the whole job over all shards of the config; writes fingerprint and filters."""
    store.put_if_absent("_run/run.json", json.dumps({"fingerprint": "f00d"}).encode())
    in_force = FiltersInForce(config.filtering.texts)
    store.put_if_absent(FILTERS_FILE, in_force.to_json())
    context = make_context(config)
    for shard in expand_shards(config.input.shards, config.input.storage_options):
        for part in order(
            read_parts(
                *(shard, config.input, config.run.part_size),
                group_shapes=config.model.groups_shapes,
            )
        ):
            part.hosts, part.device, part.seconds = ["here"], "cpu", {"read": 0.25}
            part = finish(edit(prepared(part, config)), context)
            write_part(store, part, context.fingerprint, "c0de")
            publish_if_complete(store, shard.name, config.filtering)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files in a folder, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
