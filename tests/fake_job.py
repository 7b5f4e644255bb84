"""The plain loop over a real output with a method that inverts images in place of networks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from unittest import mock

from pipeline.execution.local_loop import run_loop
from pipeline.models.probe import ModelInfo
from pipeline.plan.plan import Plan, make_plan
from pipeline.plan.run_folder import write_summary
from pipeline.plan.summary import summarize
from pipeline.records.part import Part
from pipeline.storage.layout import sweep
from tests.committing import SIZE, invert, make_config

MODEL = ModelInfo(Path("nowhere"), "r1", "stable-diffusion", "epsilon", SIZE, 8, 4)


def fake_plan(shards: str, path: str, part_size: int = 2, **sections: Any) -> Plan:
    """A plan over real shards and a real output, whose model is not looked for."""
    tree = {"run": {"part_size": part_size}, "model": {"size": SIZE}, **sections}
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
    """The plain loop, then what ``overpaint edit`` does at its end.

    Args:
        plan: of ``fake_plan``.
        failing: edit texts that fail in ``stage``, as if a device had gone away.
        stage: mask, encode or decode.
        edit: the method.
        beside: see ``run_loop``.
    """

    def inverting(part: Part) -> Part:
        for item in part.edits:
            if item.pending and item.edit_text in failing:
                item.fail(stage, "RuntimeError", "the device went away")
        return edit(part)

    with mock.patch("pipeline.stages.build.load_fused", return_value={stage: inverting}):
        plan = run_loop(plan, beside=beside)
    sweep(plan.output)
    write_summary(plan.output, summarize(plan, 1.0, 0).to_tree())
    return plan
