"""A CUDA error that persists in a process costs only its own part."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch

from jobs.edit.worker import around_step
from jobs.supervise.watchdog import Guard
from pipeline.execution.operators import Operator, compute_part
from pipeline.models.device import device_fault
from pipeline.records.part import Part, Status
from tests.parts import make_part, make_prepared


class Ended(BaseException):
    pass


def failing(part: Part) -> Part:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")


def run(device: str, lost: bool) -> tuple[Part, Any]:
    error = RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")
    synchronize = mock.Mock(side_effect=error if lost else None)
    part = make_part(make_prepared(0))
    with (
        mock.patch.object(torch.cuda, "synchronize", synchronize),
        mock.patch("jobs.edit.worker.end_process", side_effect=Ended) as end,
    ):
        assert device_fault("cpu") is None
        around = partial(around_step, Guard(mock.MagicMock(), 60.0), device)
        part = compute_part(part, [Operator("mask", failing)], around)
    return part, end


def test_a_process_with_a_lost_device_is_killed() -> None:
    """Its part does not fail: another process retries it."""
    with pytest.raises(Ended):
        run("cuda", lost=True)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_that_does_not_persist_fails_only_its_part(device: str) -> None:
    """The device still answers, so the process continues."""
    part, end = run(device, lost=False)
    assert {edit.status for edit in part.edits} == {Status.FAILED}
    assert not end.called
