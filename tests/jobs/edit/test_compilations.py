"""A run counts what its stages compile after the warm-up. Nothing is compiled here."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.edit.summary_tables import print_summary
from jobs.edit.worker import around_step
from jobs.supervise.watchdog import Guard
from pipeline.plan.plan import Plan
from pipeline.plan.summary import RunSummary, summarize
from pipeline.process.compilations import num_compilations
from tests.fake_job import fake_plan
from tests.jobs.local_journal import LocalJournal
from tests.samples import raw_sample, write_shard


def test_a_stage_that_compiles_is_counted_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that computes nothing has no part in it; the first two came with the loading."""
    counters = {"stats": Counter(unique_graphs=2)}
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", SimpleNamespace(counters=counters))
    journal = LocalJournal()
    guard = Guard(journal, 60.0)
    for part, step, number in ((0, "encode", 1), (0, "decode", 0), (1, "encode", 2), (1, "x", 5)):
        with around_step(guard, "cpu", "shard", part, step):
            counters["stats"]["unique_graphs"] += number
    assert journal.compilations() == {"encode": 3}


def test_a_process_without_the_compiler_has_compiled_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Readers and writers never import it."""
    monkeypatch.delitem(sys.modules, "torch._dynamo.utils", raising=False)
    assert num_compilations() == 0


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    return fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")


def said(plan: Plan, summary: RunSummary, capsys: pytest.CaptureFixture[str], mode: str) -> str:
    model = plan.config.model.model_copy(update={"compile": mode})
    config = plan.config.model_copy(update={"model": model})
    print_summary(replace(plan, config=config), summary)
    return " ".join(capsys.readouterr().out.split())


def test_the_summary_says_the_number(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    """By stage, and zero too; no line without model.compile, or if nothing was computed."""
    counted = summarize(plan, 1.0, 4, compilations={"encode": 3, "decode": 1})
    assert counted.to_tree()["compilations"] == {"encode": 3, "decode": 1}
    line = "compilations after the warm-up: 4 (encode 3, decode 1); these parts had shapes"
    assert line in said(plan, counted, capsys, "default")
    assert "compilations" not in said(plan, counted, capsys, "off")
    none = summarize(plan, 1.0, 4, compilations={})
    assert "compilations after the warm-up: 0" in said(plan, none, capsys, "cuda_graphs")
    assert "compilations" not in said(plan, summarize(plan, 1.0, 0), capsys, "default")
