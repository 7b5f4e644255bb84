"""The first shard is looked at before a run starts, and the end says what share failed."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from jobs import exit_codes
from jobs.edit.driver import edit
from pipeline.config.config import Config
from pipeline.config.load import ConfigError, parse_config
from pipeline.execution.local_loop import run_loop
from pipeline.plan.first_look import FirstLook, first_look
from pipeline.plan.plan import make_plan
from pipeline.plan.run_folder import write_run_folder
from pipeline.plan.summary import summarize
from pipeline.steps.marker import read_marker
from pipeline.storage.formats import BadShardError
from tests.samples import raw_sample, shard_bytes, write_shard


@pytest.fixture
def make(tmp_path: Path, tiny_model_folder: Path) -> Any:
    """The configuration of a small run over in/, with some keys overridden."""

    def config(**overrides: Any) -> Config:
        tree: dict[str, Any] = {
            "input": {"shards": f"{tmp_path}/in/*.tar"},
            "output": {"path": f"{tmp_path}/out", "format": "png"},
            "model": {"path": str(tiny_model_folder), "device": "cpu"},
            "method": {"steps": 2, "mask": {"num_noises": 1}},
            "run": {},
        }
        for key, value in overrides.items():
            section, name = key.split("__")
            tree[section][name] = value
        return parse_config(tree)

    return config


def without_texts(count: int) -> list[dict[str, Any]]:
    return [raw_sample(f"{number}", edit_texts=[]) for number in range(count)]


def test_a_dataset_without_edit_texts_is_refused_before_anything_starts(
    make: Any, tmp_path: Path
) -> None:
    """The error counts the samples, says where it looked, and which key to set."""
    write_shard(tmp_path / "in/0.tar", without_texts(12))
    plan = make_plan(make(), "cpu")
    with pytest.raises(ConfigError) as raised:
        first_look(plan)
    assert "none of its 12 samples can be edited: 12 x NoEditText: no edit text in" in str(
        raised.value
    )
    assert "Set input.edits to what the samples have" in str(raised.value)
    accepted = make_plan(make(run__max_failed_share=1), "cpu")
    assert "12 x NoEditText" in first_look(accepted).lines[0]


def test_a_small_or_skipped_first_shard_only_warns(make: Any, tmp_path: Path) -> None:
    """Three samples say little; and a shard without a substituted word is no mistake."""
    write_shard(tmp_path / "in/0.tar", without_texts(3))
    assert "none of its 3 samples" in first_look(make_plan(make(), "cpu")).lines[0]
    write_shard(tmp_path / "in/0.tar", without_texts(12))
    skipping = make(input__substitutions={"bird": ["fish"]})
    assert "12 x NoSubstitution" in first_look(make_plan(skipping, "cpu")).lines[0]


def test_a_shard_with_one_good_sample_is_no_warning(make: Any, tmp_path: Path) -> None:
    """Nor is one that cannot be read: the run names it."""
    write_shard(tmp_path / "in/0.tar", [*without_texts(12), raw_sample("good")])
    look = first_look(make_plan(make(), "cpu"))
    assert look.lines == []
    assert look.edits_per_byte == 13 / (tmp_path / "in/0.tar").stat().st_size
    (tmp_path / "in/0.tar").write_bytes(b"<html>")
    assert first_look(make_plan(make(), "cpu")) == FirstLook([])


def test_a_complete_run_with_too_many_failed_edits_ends_with_3(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when it is run again, with nothing left to compute; skipped rows do not count."""
    samples = [raw_sample("a"), *(raw_sample(f"b{n}", edit_texts=[]) for n in range(2))]
    write_shard(tmp_path / "in/0.tar", samples)
    config = make()
    plan = make_plan(config, "cpu")
    write_run_folder(plan)
    run_loop(plan)
    assert edit(config)[0] == exit_codes.TOO_MANY_FAILED == 3
    shown = capsys.readouterr()
    assert "complete, but 67% of the edits failed, above run.max_failed_share=0.5" in shown.err
    assert "read: NoEditText" in shown.out
    assert edit(make(run__max_failed_share=0.7))[0] == exit_codes.OK


def test_skipped_rows_are_not_failed_ones(make: Any, tmp_path: Path) -> None:
    """They have their own count, and the share of failed rows leaves them out."""
    samples = [raw_sample("a", edit_texts=[]), raw_sample("b", edit_texts=[], caption="a bird")]
    write_shard(tmp_path / "in/0.tar", [*samples, raw_sample("c", caption=None)])
    plan = run_loop(make_plan(make(input__substitutions={"dog": ["cat"]}), "cpu"))
    summary = summarize(plan, 1.0, 3)
    assert {name: n for name, n in summary.counts.items() if n} == {
        "edited": 1, "skipped": 1, "failed": 1,
    }  # fmt: skip
    assert summary.failures == {"read: NoCaption": 1}
    assert summary.failed_share == 0.5


def test_a_shard_that_is_no_tar_is_published_once_it_is_mended(make: Any, tmp_path: Path) -> None:
    """It stays to do, and the next run reads it again; the good ones are published."""
    good = shard_bytes([raw_sample("x")])
    bad = {"gzip": gzip.compress(good), "html": b"<html>403</html>" * 40, "none": b""}
    write_shard(tmp_path / "in/zgood.tar", [raw_sample("x")])
    for name, data in bad.items():
        (tmp_path / f"in/{name}.tar").write_bytes(data)
    with pytest.raises(BadShardError) as raised:
        run_loop(make_plan(make(), "cpu"))
    assert all(f"{tmp_path}/in/{name}.tar: it is no tar" in str(raised.value) for name in bad)
    plan = make_plan(make(), "cpu")
    assert plan.published == ["zgood"]
    assert [work.shard.name for work in plan.work] == sorted(bad)
    for name in bad:
        (tmp_path / f"in/{name}.tar").write_bytes(good)
    plan = run_loop(make_plan(make(), "cpu"))
    assert plan.work == []
    for name in bad:
        marker = read_marker(plan.output, name)
        assert marker is not None
        assert marker.counts["edited"] == 1
