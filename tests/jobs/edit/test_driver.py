"""What ``overpaint edit`` prints before it computes anything, for runs with nothing left to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from jobs.edit.driver import edit
from pipeline.plan.plan import Plan
from pipeline.storage.store import Store
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard


@pytest.fixture
def finished(tmp_path: Path) -> Plan:
    """A published run of one shard; one of its rows failed because its image is invalid."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a"), raw_sample("b", png=b"no image")])
    run_fake(fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out"))
    return fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")


def again(plan: Plan, **options: bool) -> int:
    with mock.patch("jobs.edit.driver.make_plan", return_value=plan):
        return edit(plan.config, **options)[0]


def test_a_store_without_conditional_put_has_one_warning(
    finished: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    """A conditional store has none; the probe is removed."""
    assert again(finished) == 0
    assert capsys.readouterr().err == ""
    with mock.patch.object(Store, "conditional", False):
        assert again(finished) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "only one driver at a time" in line
    assert not [name for name in finished.output.list() if "probe" in name]


def test_a_changed_input_has_a_warning(
    finished: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the shard; the output stays and the exit code is 0."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    assert again(fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: shard 0: the input has changed since it was read")


def test_a_damaged_marker_is_named_and_stays(
    finished: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is published can no longer be told, so the exit code is 1."""
    finished.output.put("0_stats.json", b"null")
    assert again(finished) == 1
    printed = capsys.readouterr().out
    assert f"shard 0: {finished.output.url}/0_stats.json: is damaged: " in printed
    assert "remove it, and the next run computes the shard again" in printed
    assert finished.output.get("0_stats.json") == b"null"
    assert "0" in json.loads(finished.output.get("_run/summary.json"))["unreadable"]


def test_retry_failed_prints_the_number_of_shards(
    finished: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    """If there is nothing to retry, it says so, without an error."""
    assert again(finished, retry_failed=True) == 0
    assert "0 published shards have failed edits to recompute" in capsys.readouterr().out


def test_with_json_logs_every_line_is_json(
    finished: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Warnings, the summary and the report's address can all be parsed."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    changed = fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")
    run = changed.config.run.model_copy(update={"log_format": "json"})
    assert again(replace(changed, config=changed.config.model_copy(update={"run": run}))) == 0
    said = capsys.readouterr()
    assert said.out == ""
    warning, summary, *rest = [json.loads(line) for line in said.err.splitlines()]
    assert warning["level"] == "warning"
    assert warning["message"].startswith("warning: shard 0: the input has changed")
    assert summary["summary"]["counts"]["failed"] == 1
    assert [line["level"] for line in rest] == ["info"]
    assert again(finished) == 0
    assert "summary" not in capsys.readouterr().err
