"""``overpaint plan`` says what fits into a device's memory, without one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.edit.memory_table import print_memory, size_text
from jobs.logs import use_format
from pipeline.config.config import Config
from pipeline.plan.plan import Plan, plan_in_memory
from pipeline.sizing.estimate import Estimate
from pipeline.sizing.pools import Node
from tests.tiny_models import make_tiny_sd3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sd3(tmp_path_factory.mktemp("sd3") / "model")


def planned(folder: Path, **of_plan: Any) -> tuple[Plan, Estimate]:
    """A run on GPUs, as a machine without any plans it."""
    tree = {
        "input": {"shards": "in"},
        "output": {"path": "out"},
        "model": {"path": str(folder)},
        "run": {"layout": "pools", "part_size": 4},
        "plan": of_plan,
    }
    plan = plan_in_memory(Config.model_validate(tree), "cuda")
    sizes = dict.fromkeys(plan.config.pools, 1)
    return plan, Estimate("pools", sizes, {}, memory_bytes=dict.fromkeys(sizes, 10**6))


def test_a_named_memory_gets_its_largest_sizes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each stage; what does not fit is said, and what to lower."""
    print_memory(*planned(folder, device_memory_bytes=10_000_000), [Node(2, 1, 8e9)])
    said = capsys.readouterr().out
    table = [line.split()[1] for line in said.splitlines() if line.startswith("│")]
    assert [name for name in table if name != "│"] == ["mask", "encode", "decode"]
    assert "2 parts in an actor's main memory: mask 1 MB, encode 1 MB, decode 1 MB;" in said
    assert "decode: decode needs" in said
    assert "stages.decode.micro_batch or model.vae_micro_batch" in said
    assert "plan.device_memory_bytes" not in said


def test_without_a_name_the_sizes_are_not_known(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan says which key names the memory; what is needed is said all the same."""
    print_memory(*planned(folder), [Node(2, 1, 8e9)])
    assert "decode: how much memory its device has is not known" in capsys.readouterr().out


def test_as_json_it_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With run.log_format: json; the encoders are in every pool's actors but the encoding one's."""
    use_format("json")
    try:
        print_memory(*planned(folder, device_memory_bytes=10**9), [Node(2, 1, 8e9)])
    finally:
        use_format("text")
    captured = capsys.readouterr()
    (line,) = [json.loads(line) for line in (captured.out + captured.err).splitlines()]
    weights = {actor["pool"]: actor["weights"] for actor in line["actors"]}
    assert weights["mask"] - weights["encode"] > 400_000
    assert line["actors"][2]["stages"]["decode"]["micro_batch"] == 8  # with guidance, of four edits


def test_a_model_that_cannot_be_counted_is_a_warning(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hub's tokenizers may not be here; the plan goes on without the table."""
    plan, expected = planned(folder)
    plan = replace(plan, model=replace(plan.model, folder=tmp_path))
    print_memory(plan, expected, [Node(2, 1)])
    captured = capsys.readouterr()
    assert "the model's memory is not counted" in captured.out + captured.err


def test_sizes_are_short() -> None:
    """Gigabytes, megabytes, nothing."""
    sizes = 9_500_000_000, 123_456_789, 751_000, None
    assert [size_text(size) for size in sizes] == ["9.5 GB", "123 MB", "0.75 MB", ""]
