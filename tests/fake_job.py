"""Runs the local loop on a real output, with an edit that inverts images instead of networks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.execution.local_loop import run_loop
from pipeline.models.model_info import ModelInfo
from pipeline.plan.plan import Plan, make_plan
from pipeline.plan.run_folder import write_summary
from pipeline.plan.summary import summarize
from pipeline.records.part import Part
from pipeline.storage.layout import sweep
from tests.committing import SIZE, invert, make_config

MODEL = ModelInfo(Path("nowhere"), "r1", "stable-diffusion", "epsilon", SIZE, 8, 4)


def fake_plan(shards: str, path: str, part_size: int = 2, **sections: Any) -> Plan:
    """A plan for real shards and a real output, with a fake model."""
    model = {"size": SIZE, "dtype": "float32"}  # in other processes of a test, too
    tree = {"run": {"part_size": part_size}, "model": model, **sections}
    tree["output"] = {"path": path, **sections.get("output", {})}
    with mock.patch("pipeline.plan.plan.probe_model", return_value=MODEL):
        return make_plan(make_config(shards, **tree), "cpu")


def run_fake(
    plan: Plan,
    failing: Collection[str] = (),
    stage: str = "decode",
    edit: Callable[[Part], Part] = invert,
    *,
    beside: bool = True,
) -> Plan:
    """Runs the local loop, then the last steps of ``overpaint edit``.

    Args:
        plan: from ``fake_plan``.
        failing: edit texts that fail in ``stage``, as if the device were lost.
        stage: mask, encode or decode.
        edit: the edit to apply to each part.
        beside: see ``run_loop``.
    """

    def inverting(part: Part) -> Part:
        for item in part.edits:
            if item.pending and item.edit_text in failing:
                item.fail(stage, "RuntimeError", "the device went away")
        return edit(part)

    with mock.patch("pipeline.stages.build.load_stages", return_value={stage: inverting}):
        plan = run_loop(plan, beside=beside)
    sweep(plan.output)
    write_summary(plan.output, summarize(plan, 1.0, 0).to_tree())
    return plan
