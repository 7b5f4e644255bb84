"""The recipe of jobs/README.md for reading an output works as written, on outputs as they come."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.mix import Mix
from pipeline.mix.mix import run_mix
from pipeline.mix.plan import make_mix_plan
from pipeline.records.part import Part
from pipeline.storage.store import Store
from tests.committing import invert, make_config, run
from tests.samples import encode, pixels, raw_sample, write_shard

PAGE = Path(__file__).resolve().parents[2] / "jobs/README.md"


def blocks() -> list[str]:
    section = PAGE.read_text(encoding="utf-8").split("## Training on originals and edits", 1)[1]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[:2]


def see_through(seed: int) -> bytes:
    """An image with transparent pixels: its row has a note."""
    image = Image.fromarray(pixels(seed)).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encode(np.asarray(image))


def without_background(part: Part) -> Part:
    """The mask of the first six images covers everything, so they have no score of a background."""
    for edit in invert(part).edits:
        if edit.mask is not None and edit.pending and part.samples[0].key.startswith("k"):
            edit.mask[:] = 1
    return part


@pytest.mark.slow
def test_recipe_reads_notes_scores_and_empty_shards_that_come_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """datasets takes the types from the first five samples of the first tar; a mix is read too."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    own: list[dict[str, Any]] = [{"a": None}, {"a": "text"}, {"b": [1]}, {}, {"a": 3}, {}]
    first = [raw_sample(f"k{n}", seed=n, suffix="jpg", json=own[n]) for n in range(6)]
    late = [raw_sample("z", seed=9, jpg=see_through(9), json={"seed": 1})]
    write_shard(tmp_path / "in/00.tar", [raw_sample("x", jpg=b"no image", suffix="jpg")])
    write_shard(tmp_path / "in/01.tar", [*first, *late])
    write_shard(tmp_path / "in/02.tar", [])
    config = make_config(f"{tmp_path}/in/*.tar", output={"format": "jpg"}, run={"part_size": 1})
    run(config, Store(f"{tmp_path}/out"), edit=without_background)
    mix = {
        "input": {"shards": f"{tmp_path}/in/*.tar"},
        "edited": {"paths": [f"{tmp_path}/out"]},
        "output": {"path": f"{tmp_path}/train"},
        "splits": {"train": 1.0},
    }
    run_mix(make_mix_plan(Mix.model_validate(mix)))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks():
        exec(block, names)
    assert names["rows"].num_rows == 8
    assert names["shards"] == ["01"]
    edited = names["edited"]["train"]
    assert [sample["__key__"] for sample in edited] == [*(f"k{n}_0" for n in range(6)), "z_0"]
    assert edited[6]["json"]["notes"] == "transparent pixels were put on white"
    assert "score_background_mse" in json.loads(edited[6]["json"]["scores"])
    assert "score_background_mse" not in json.loads(edited[0]["json"]["scores"])
    assert json.loads(edited[2]["json"]["source"]) == {"b": [1]}
    mixed = names["mixed"]["train"]
    assert len(mixed) == 14
    assert {sample["txt"] for sample in mixed} == {"a dog", "a cat"}
    assert all(sample["jpg"].size for sample in mixed)
    parquet = datasets.load_dataset("parquet", data_files="out/*.parquet", split="train")
    assert len(parquet) == 8
