"""Writes shards of the demo world: any number of edits with ground truth, or `make demo`'s input.

Equal arguments give equal bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.demo.edits import KINDS, sample_edit
from pipeline.demo.samples import edit_sample, write_shard
from pipeline.demo.trouble import FOUR_KINDS, TROUBLE, four_edit_texts

DEMO_SHARDS, DEMO_ROWS_IN_SHARD = 4, 64
_DEMO_SEED = 2210


def write_demo_shards(out: Path | str, num_shards: int, samples: int, seed: int = 0) -> list[Path]:
    """Write `num_shards` tars of `samples` edits each, 00000.tar onwards; returns their paths.

    All kinds of edits take turns; the bundled model was not trained on these scenes.

    Raises:
        ValueError: a count is below 1.
    """
    if num_shards < 1 or samples < 1:
        raise ValueError(
            f"num_shards and samples must be at least 1, got {num_shards} and {samples}"
        )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{shard:05d}.tar" for shard in range(num_shards)]
    for shard, path in enumerate(paths):
        numbers = range(shard * samples, (shard + 1) * samples)
        edits = ((number, sample_edit(seed, "heldout", number)) for number in numbers)
        write_shard(path, (edit_sample(edit, f"{number:08d}") for number, edit in edits))
    return paths


def write_demo_input(out_dir: Path | str) -> list[Path]:
    """Write 00000.tar to 00003.tar, 64 output rows each, and trouble.json; returns the tars.

    Some samples are deliberately difficult or broken. trouble.json maps their keys to the kind of
    trouble.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths, kinds_by_key = [], {}
    for shard in range(DEMO_SHARDS):
        samples, rows, position = [], 0, 0
        while rows < DEMO_ROWS_IN_SHARD:
            number = shard * DEMO_ROWS_IN_SHARD + position
            key = f"{number:05d}"
            edit = sample_edit(_DEMO_SEED, "heldout", number, kinds=KINDS)
            make = TROUBLE.get((shard, position), edit_sample)
            if make is not edit_sample:
                kinds_by_key[key] = make.__name__
            samples.append(make(edit, key))
            rows += len(FOUR_KINDS) if make is four_edit_texts else 1
            position += 1
        paths.append(folder / f"{shard:05d}.tar")
        write_shard(paths[-1], samples)
    (folder / "trouble.json").write_text(json.dumps(kinds_by_key, indent=2) + "\n")
    return paths
