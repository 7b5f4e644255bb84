"""Pairs of before and after, as trainers of editors read them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.mix.mix import run_mix
from pipeline.mix.pairs import instruction
from pipeline.mix.plan import make_mix_plan
from pipeline.mix.survey import MixError
from pipeline.storage.store import Store
from tests.committing import SIZE, make_config, run
from tests.mix.boxed import HEIGHT, WIDTH, datasets_of, mixed, tree_of
from tests.mix.test_mix import settings
from tests.samples import encode, pixels, raw_sample, write_shard


def test_pairs_are_read_by_datasets(
    boxed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after have one size and one framing, with instruction, captions and scores."""
    manifest = mixed(boxed, "pairs")
    assert manifest["splits"]["train"]["original"] == 0
    assert manifest["pictures"]["left_out"] == {"only in pairs with its edits": 8}
    found = datasets_of(boxed / "pairs", monkeypatch, tmp_path)["train"]
    assert len(found) == 14
    for row in found:
        assert row["before"].size == row["after"].size == row["mask"].size == (SIZE, SIZE)
        # the fake edit inverts the image inside of its mask; the composite keeps the rest
        before, after = (np.asarray(row[name], int) for name in ("before", "after"))
        outside = np.asarray(row["mask"]) == 0
        assert np.array_equal(before[outside], after[outside])
        assert not np.array_equal(before[~outside], after[~outside])
        assert row["instruction"] == f"change dog to {row['caption_after'].split()[-1]}"
        assert row["caption_before"] == "a dog"
        assert row["score_background_psnr_db"] is not None
        assert row["score_clip_image"] is None
    sources = {(row["shard"], row["key"], row["edit_index"]) for row in found}
    assert len(sources) == 14


@pytest.mark.parametrize(
    ("caption", "edit_text", "expected"),
    [
        ("a dog on grass", "a cat on grass", "change dog to cat"),
        ("A dog", "a red dog", "add red"),
        ("a red dog", "a dog", "remove red"),
        ("a dog", "the sea", "the sea"),
        ("a dog", "a dog", "a dog"),
        ("a a", "a a a", "add a"),
    ],
)
def test_an_instruction_says_what_differs(caption: str, edit_text: str, expected: str) -> None:
    """In the words of both captions."""
    assert instruction(caption, edit_text) == expected


def test_pairs_at_the_size_of_the_original_hold_its_file(tmp_path: Path) -> None:
    """With output.resolution: source no pixel is encoded again."""
    write_shard(tmp_path / "in/00.tar", [raw_sample("k")])
    config = make_config(f"{tmp_path}/in/*.tar", output={"resolution": "source"})
    run(config, Store(str(tmp_path / "out")))
    mixed(tmp_path, "pairs")
    row = pq.read_table(tmp_path / "pairs/train/00.parquet").to_pylist()[0]
    assert row["before"]["bytes"] == encode(pixels(0))
    assert Image.open(io.BytesIO(row["after"]["bytes"])).size == (WIDTH, HEIGHT)


def test_pairs_need_the_runs_configuration_where_sizes_differ(tmp_path: Path) -> None:
    """It says how the original was cropped."""
    write_shard(tmp_path / "in/00.tar", [raw_sample("k")])
    run(make_config(f"{tmp_path}/in/*.tar"), Store(str(tmp_path / "out")))
    plan = make_mix_plan(settings(tmp_path, "pairs", **tree_of("pairs")))
    with pytest.raises(MixError, match=r"has no _run/config\.yaml"):
        run_mix(plan)
