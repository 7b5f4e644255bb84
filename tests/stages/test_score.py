"""The score stage: which images it scores, and a whole run with it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import ConfigError, parse_config
from pipeline.config.method import Composite
from pipeline.execution.local_loop import run_loop
from pipeline.images.composite import composite, mask_of
from pipeline.models.scorers import EditToScore
from pipeline.plan.plan import make_plan
from pipeline.records.part import Part, Status
from pipeline.stages.score import ScoreStage
from pipeline.steps.verify import verify
from tests.packed import from_bytes, to_bytes
from tests.parts import make_part, make_prepared, required
from tests.samples import raw_sample, write_shard
from tests.tiny_scorers import make_tiny_scorers


class FakeScorers:
    """A stand-in for the scorers that records its input and returns given values."""

    device_kind = "cpu"

    def __init__(self, *values: float) -> None:
        self.values = values

    def __call__(self, before: Sequence[np.ndarray], edits: Sequence[EditToScore]) -> list[dict]:
        self.before, self.edits = before, edits
        return [{"lpips": value} for value, _ in zip(self.values, edits, strict=True)]


def decoded_part() -> Part:
    """A decoded part: two images with two edits each; the first one's second edit has failed."""
    part = make_part(make_prepared(1, "a cat", "bad"), make_prepared(2, "x", "y", caption="a fox"))
    for number, edit in enumerate(part.edits):
        edit.mask = np.zeros((4, 4), np.float32)
        edit.mask[:2] = 1
        edit.image = np.full((32, 32, 3), 60 * number, np.uint8)
    part.edits[1].fail("decode", "NonFinite", "not finite")
    return part


@pytest.mark.parametrize("enabled", [True, False])
def test_scored_image_is_the_output_image(enabled: bool) -> None:
    """The scorers get the composite if it is enabled, else the decoded image, with its texts."""
    scorers, part = FakeScorers(0.1, 0.2, 0.3), decoded_part()
    settings = Composite(enabled=enabled, feather=3)
    ScoreStage(scorers, settings)(part)  # type: ignore[arg-type]
    first, second = part.samples
    for image, sample in zip(scorers.before, part.samples, strict=True):
        assert np.array_equal(image, required(sample.image))
    inputs = [(e.image, e.caption, e.edit_text) for e in scorers.edits]
    assert inputs == [(0, "a dog", "a cat"), (1, "a fox", "x"), (1, "a fox", "y")]
    edit = second.edits[1]
    assert second.image is not None
    assert edit.image is not None
    feather = 3 if enabled else None
    wanted = composite(second.image, edit.image, mask_of(second, edit), feather=feather).pixels
    assert np.array_equal(scorers.edits[2].after, wanted)
    assert np.array_equal(scorers.edits[2].after, edit.image) is not enabled
    assert [edit.scores for edit in part.edits] == [
        {"lpips": 0.1},
        {},
        {"lpips": 0.2},
        {"lpips": 0.3},
    ]
    assert first.edits[1].status is Status.FAILED


def test_score_that_is_not_finite_is_null_and_noted() -> None:
    """The edit is kept, and a note names the score."""
    part = decoded_part()
    scorers = FakeScorers(float("nan"), 0.123456789, float("inf"))
    ScoreStage(scorers, Composite())(part)  # type: ignore[arg-type]
    assert part.edits[0].scores == {"lpips": None}
    assert part.edits[0].notes == ["not finite, and so left out: lpips"]
    assert (part.edits[2].scores, part.edits[2].notes) == ({"lpips": 0.123457}, [])
    assert from_bytes(to_bytes(part)).edits[2].scores == {"lpips": 0.123457}


def test_part_without_decoded_edits_is_returned_unchanged() -> None:
    """If no edit has an image, the scorers are not called."""
    part = decoded_part()
    for sample in part.samples:
        sample.fail("mask", "X", "y")
    assert ScoreStage(FakeScorers(), Composite())(part) is part  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_tiny_scorers(tmp_path_factory.mktemp("scorers"))


def test_run_with_all_scores(
    section: dict[str, Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Every edited row has all scores, filters can use them, and the output verifies."""
    write_shard(
        tmp_path / "in/0.tar", [raw_sample("a", ["a cat", "a red dog"]), raw_sample("b", ["a dog"])]
    )

    def config(path: str, **changes: Any) -> Any:
        return parse_config(
            {
                "input": {"shards": f"{tmp_path}/in/*.tar"},
                "output": {"path": f"{tmp_path}/{path}", "format": "png"},
                "model": {"path": str(tiny_model_folder), "size": 32},
                "method": {"steps": 3, "mask": {"num_noises": 2}},
                "scores": section,
                **changes,
            }
        )

    plan = make_plan(config("out"), "cpu")
    assert config("out").pools == ("mask", "encode", "decode", "score")
    assert run_loop(plan).work == []
    rows = pq.read_table(io.BytesIO(plan.output.get("0.parquet"))).to_pylist()
    edited = [row for row in rows if row["status"] == "edited"]
    assert [row["key"] for row in edited] == ["a", "a"]
    for row in edited:
        scores = {name: value for name, value in row.items() if name.startswith("score_")}
        assert all(value is not None for value in scores.values()), scores
    unchanged = next(row for row in rows if row["status"] == "unchanged")
    assert unchanged["score_clip_image"] is None
    values = sorted(row["score_clip_directional"] for row in edited)
    limit = f"clip_directional >= {sum(values) / 2:.6f}"
    filtered = make_plan(config("filtered", filters=[limit]), "cpu")
    run_loop(filtered)
    assert filtered.fingerprint == plan.fingerprint
    assert verify(filtered.output).counts == {"edited": 1, "rejected": 1, "unchanged": 1}
    assert verify(filtered.output).problems == []
    without = make_plan(config("without", scores={}), "cpu")
    assert without.fingerprint != plan.fingerprint


def test_missing_weights_are_an_error_at_start_up(
    section: dict[str, Any], tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The error names the key, and the output stays empty."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    tree = {
        "input": {"shards": f"{tmp_path}/in/*.tar"},
        "output": {"path": f"{tmp_path}/out"},
        "model": {"path": str(tiny_model_folder)},
        "scores": {**section, "dino": {"path": "no/where/to/be/found"}},
    }
    with pytest.raises(ConfigError, match=r"scores\.dino\.path='no/where/to/be/found': no such"):
        make_plan(parse_config(tree), "cpu")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_score_stage_must_have_the_same_threads(section: dict[str, Any]) -> None:
    """Otherwise layouts pools and fused would differ; without scorers the setting is ignored."""
    stages = {"score": {"threads": 2}, "decode": {"threads": 1}}
    tree = {"input": {"shards": "a"}, "output": {"path": "b"}, "stages": stages}
    assert parse_config(tree).threads == 1
    with pytest.raises(ConfigError, match=r"stages\.score\.threads=2: threads must be equal"):
        parse_config(tree | {"scores": section})
