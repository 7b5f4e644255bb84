"""Planning: a run that cannot work is an error at start-up, and finished work is not repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.load import ConfigError, parse_config
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import Plan, make_plan
from pipeline.plan.run_folder import write_run_folder
from tests.samples import raw_sample, write_shard

Planner = Callable[..., Plan]


@pytest.fixture
def plan(tmp_path: Path, tiny_model_folder: Path) -> Planner:
    """Plans a run over two shards with two edits each, with some keys overridden."""
    for number in range(2):
        write_shard(tmp_path / f"in/{number}.tar", [raw_sample("a"), raw_sample("b", seed=1)])

    def make(**overrides: object) -> Plan:
        tree: dict = {
            "input": {"shards": f"{tmp_path}/in/*.tar"},
            "output": {"path": f"{tmp_path}/out", "format": "png"},
            "model": {"path": str(tiny_model_folder)},
            "method": {"steps": 2, "mask": {"num_noises": 1}},
            "run": {"part_size": 1},
            "stages": {},
        }
        for key, value in overrides.items():
            section, name = key.split("__")
            tree[section][name] = value
        return make_plan(parse_config(tree), "cpu")

    return make


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"input__shards": "nowhere/*.tar"}, ["input.shards", "nowhere"]),
        ({"input__shards": "pipe:cat in.tar"}, ["pipe:"]),
        ({"model__path": "./no_such_model"}, ["model.path", "no_such_model"]),
        ({"model__size": 33}, ["model.size=33"]),
        ({"model__revision": "main", "model__path": "no/such model"}, ["model.path"]),
    ],
)
def test_a_run_that_cannot_work_is_an_error_at_start_up(
    plan: Planner, overrides: dict, words: list[str]
) -> None:
    """Input and model are probed; the message names key and value."""
    with pytest.raises(ConfigError) as caught:
        plan(**overrides)
    for word in words:
        assert word in str(caught.value)


def test_the_output_must_not_contain_the_input(plan: Planner, tmp_path: Path) -> None:
    """The next run would read its own output."""
    with pytest.raises(ConfigError, match=r"output\.path"):
        plan(output__path=f"{tmp_path}/in")


def test_pickled_weights_are_refused(plan: Planner, tmp_path: Path) -> None:
    """The error for a model folder without safetensors names the pickle."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "model.ckpt").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"model\.ckpt"):
        plan(model__path=str(folder))


def test_an_output_with_another_fingerprint_is_refused(plan: Planner) -> None:
    """The message names the key and both values."""
    write_run_folder(plan())
    assert plan(run__layout="fused").fingerprint == plan().fingerprint
    with pytest.raises(ConfigError) as caught:
        plan(run__seed=7)
    assert "run.seed: the output has 0, this run asks for 7" in str(caught.value)
    assert "output.path" in str(caught.value)


def test_an_output_of_cropped_originals_is_not_resumed_with_padded_ones(plan: Planner) -> None:
    """crop was the default of every resolution; the output holds it, so it counts."""
    cropped = {"output__resolution": "source", "model__resize": "crop"}
    write_run_folder(plan(**cropped))
    with pytest.raises(ConfigError, match=r"model\.resize: the output has 'crop', .* for 'pad'"):
        plan(output__resolution="source")
    assert plan(**cropped).config.model.resize == "crop"


def test_auto_threads_are_those_of_the_resumed_output(plan: Planner) -> None:
    """Another layout or other CPUs keep the fingerprint; threads set to another number do not."""
    first = plan(run__layout="fused", stages__decode={"cpus": 2})
    assert first.config.stages.mask.threads == first.config.stages.decode.threads == 2
    write_run_folder(first)
    for again in (plan(), plan(stages__decode={"cpus": 8}), plan(run__layout="fused")):
        assert again.config.threads == 2
        assert again.fingerprint == first.fingerprint
    with pytest.raises(ConfigError, match=r"decode\.threads: the output has 2, .* asks for 1"):
        plan(stages__decode={"threads": 1})


def test_an_output_without_a_run_record_is_refused(plan: Planner, tmp_path: Path) -> None:
    """Its markers may have been made by any run."""
    run_loop(plan())
    (tmp_path / "out/_run/run.json").unlink()
    with pytest.raises(ConfigError, match=r"run\.json"):
        plan()


def test_finished_shards_are_not_planned_again(plan: Planner, tmp_path: Path) -> None:
    """After a run no work is left, except for shards that are added."""
    assert [work.shard.name for work in plan().work] == ["0", "1"]
    assert not run_loop(plan()).work
    write_shard(tmp_path / "in/2.tar", [raw_sample("c")])
    again = plan()
    assert [work.shard.name for work in again.work] == ["2"]
    assert again.published == ["0", "1"]


def test_staged_parts_are_not_computed_again(plan: Planner, tmp_path: Path) -> None:
    """A run that was stopped between parts computes only the missing ones."""
    seen = []

    def stop_after_one(result: object) -> None:
        seen.append(result)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_loop(plan(), stop_after_one)
    ((_, num_parts, index),) = plan().work[0].staged
    assert (num_parts, index) == (2, 0)
    run_loop(plan(), seen.append)
    assert len(seen) == 4


def test_limit_counts_edits_over_sorted_shards(plan: Planner) -> None:
    """Three of four edits are all of the first shard and one of the second."""
    work = plan(input__limit=3).work
    assert [(item.shard.name, item.max_edits) for item in work] == [("0", None), ("1", 1)]
    assert [item.shard.name for item in plan(input__limit=2).work] == ["0"]


def test_the_run_folder_records_config_and_fingerprint_but_no_secrets(
    plan: Planner, tmp_path: Path
) -> None:
    """storage_options may hold credentials and are not recorded."""
    made = plan(output__storage_options={"auto_mkdir": True})
    write_run_folder(made)
    record = json.loads((tmp_path / "out/_run/run.json").read_text())
    assert record["fingerprint"] == made.fingerprint
    text = (tmp_path / "out/_run/config.yaml").read_text()
    assert "part_size: 1" in text
    assert "auto_mkdir" not in text
