"""Relative paths are made absolute on a cluster, so that they mean the same in every process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import ray

from jobs.edit.cluster import connect
from jobs.edit.driver import edit
from jobs.edit.paths import with_absolute_paths
from jobs.edit.planner import print_plan
from pipeline.config.config import Config
from pipeline.config.load import ConfigError, parse_config


def config(**sections: Any) -> Config:
    tree = {"input": {"shards": ["in/*.tar", "s3://b/in"]}, "output": {"path": "out"}}
    return parse_config(tree | sections)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    Path("weights").mkdir()
    return tmp_path


def test_relative_paths_become_absolute(here: Path) -> None:
    """They are relative to the driver's folder; urls and hub ids stay as they are."""
    given = config(scores={"lpips": {"path": "weights", "net": "vgg"}, "clip": {"path": "a/b"}})
    found = with_absolute_paths(given)
    assert found.input.shards == [f"{here}/in/*.tar", "s3://b/in"]
    assert found.output.path == f"{here}/out"
    assert found.scores.lpips is not None
    assert found.scores.lpips.path == f"{here}/weights"
    assert found.scores.clip is not None
    assert found.scores.clip.path == "a/b"
    assert with_absolute_paths(found) == found


def test_relative_paths_of_what_is_added_become_absolute(here: Path) -> None:
    """LoRAs and another VAE; hub ids stay as they are."""
    added = {"vae": "weights", "lora": [{"path": "weights", "weight": 0.5}, {"path": "a/b"}]}
    found = with_absolute_paths(config(model=added)).model
    assert found.vae == f"{here}/weights"
    assert [lora.path for lora in found.lora] == [f"{here}/weights", "a/b"]
    assert found.lora[0].weight == 0.5


def test_a_relative_model_path_is_refused_on_a_cluster() -> None:
    """Rows record the path as written; a worker would take it for a hub id."""
    with pytest.raises(ConfigError, match=r"model\.path='weights': is relative"):
        with_absolute_paths(config(model={"path": "weights"}))


@pytest.mark.parametrize("command", [edit, print_plan])
@pytest.mark.parametrize(("address", "made"), [("head:6379", True), (None, False)])
def test_a_run_on_a_cluster_has_absolute_paths(
    here: Path, command: Callable[[Config], object], address: str | None, made: bool
) -> None:
    """Otherwise its workers would use the folders in which their nodes were started."""
    model = {"device": "cpu", "dtype": "float32"}  # "auto" would connect first
    given = config(run={"address": address}, model=model)
    module = command.__module__
    with (
        mock.patch(f"{module}.make_plan", side_effect=ConfigError("seen")) as make_plan,
        pytest.raises(ConfigError, match="seen"),
    ):
        command(given)
    assert make_plan.call_args.args[0].output.path == (f"{here}/out" if made else "out")


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (ray.exceptions.AuthenticationError("no token"), "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"),
        (None, "Failed to connect to Ray cluster at head:6379"),
    ],
)
def test_a_cluster_that_does_not_answer_is_a_one_line_error(
    cause: Exception | None, words: str
) -> None:
    """It names the address and, if the cluster requires a token, what to set."""
    error = ConnectionError("Failed to connect to Ray cluster at head:6379")
    error.__cause__ = cause
    with (
        mock.patch("ray.init", side_effect=error),
        pytest.raises(ConfigError, match=r"run\.address='head:6379': Failed to connect") as raised,
    ):
        connect(config(run={"address": "head:6379"}), verbose=False)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
