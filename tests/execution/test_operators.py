"""The one way of a part through a run: what an operator's error does, and what is around it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from pipeline.execution.operators import Operator, compute_part, flow_of, read
from pipeline.records.part import Edit, Part, Sample, Status
from pipeline.steps.write_part import from_ipc, header_of
from pipeline.storage import scratch
from pipeline.storage.retry import StorageError
from tests.committing import invert
from tests.fake_job import fake_plan
from tests.samples import raw_sample, write_shard


def broken(part: Part) -> Part:
    raise RuntimeError("no device")


def exiting(part: Part) -> Part:
    raise SystemExit(3)


def make_part() -> Part:
    part = Part("0", 4, 9, [Sample("k", edits=[Edit(0, "a"), Edit(1, "b")])])
    part.samples[0].edits[1].fail("read", "EmptyText", "the edit text is empty")
    return part


@pytest.mark.parametrize(("step", "error"), [(broken, "RuntimeError"), (exiting, "SystemExit")])
def test_an_error_of_a_computing_step_fails_the_edits_in_flight(step: object, error: str) -> None:
    """The row names the step; an edit that failed before keeps its own reason."""
    part = compute_part(make_part(), [Operator("mask", step)])  # type: ignore[arg-type]
    first, second = part.edits
    assert (first.status, first.stage, first.error) == (Status.FAILED, "mask", error)
    assert (second.stage, second.error) == ("read", "EmptyText")


def test_an_error_of_a_writing_step_is_no_row() -> None:
    """It leaves the part undone: the caller hears of it, and no edit is failed."""
    part = make_part()
    with pytest.raises(RuntimeError, match="no device"):
        compute_part(part, [Operator("commit", broken, fails_edits=False)])
    assert part.edits[0].pending


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_in_a_computing_step_is_no_row(wrapped: bool) -> None:
    """Compiled code is kept on a disk: the part is not at fault, whatever wraps the error."""

    def full(part: Part) -> Part:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            if wrapped:
                raise RuntimeError("the backend failed") from error
            raise

    part = make_part()
    with pytest.raises((OSError, RuntimeError)):
        compute_part(part, [Operator("decode", full)])
    assert part.edits[0].pending


@pytest.mark.parametrize("ranges", [False, True])
def test_a_store_that_fails_while_a_part_is_prepared_is_no_row(
    tmp_path: Path, ranges: bool
) -> None:
    """The files of a large shard may be read when they are decoded; here it changed meanwhile."""
    noise = bytes(scratch.HELD_BYTES)
    write_shard(tmp_path / "in/0.tar", [raw_sample("a", npy=noise), raw_sample("b")])
    plan = fake_plan(f"{tmp_path}/in", str(tmp_path / "out"), 1)
    flow = flow_of(plan)
    part = next(read(flow, plan.work[0], ranges=ranges))
    with open(tmp_path / "in/0.tar", "r+b") as file:
        file.write(b"0")
    with pytest.raises(StorageError, match="has changed") if ranges else nullcontext():
        compute_part(part, [flow.prepare])
    assert part.edits[0].pending


def test_each_step_is_entered_by_its_place_and_name_and_timed() -> None:
    """In order, around the step: what Ray's watchdog and journal rely on."""
    seen: list[object] = []

    @contextmanager
    def around(shard: str, part: int | None, step: str) -> Iterator[None]:
        seen.append((shard, part, step))
        yield
        seen.append(f"after {step}")

    def noting(part: Part) -> Part:
        seen.append("run")
        return part

    part = compute_part(make_part(), [Operator("mask", noting), Operator("encode", broken)], around)
    assert seen == [("0", 4, "mask"), "run", "after mask", ("0", 4, "encode"), "after encode"]
    assert set(part.seconds) == {"mask", "encode"}
    assert len(part.hosts) == 1


def test_what_a_step_returns_goes_on() -> None:
    """A step may hand on another part than it was given."""
    other = Part("other", 0, 1)
    heard: list[Part] = []

    def hearing(part: Part) -> Part:
        heard.append(part)
        return part

    steps = [Operator("mask", lambda part: other), Operator("encode", hearing)]
    assert compute_part(make_part(), steps) is other
    assert heard == [other]


def test_the_flow_of_a_run_ends_in_its_output(tmp_path: Path) -> None:
    """Read, prepare, compute, finish, commit: two parts are staged, the last one publishes."""
    write_shard(tmp_path / "in/0.tar", [raw_sample(key, ["a cat", "a fox"]) for key in "ab"])
    plan = fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")
    flow = flow_of(plan)
    stages = [Operator("decode", invert)]
    first, second = (
        compute_part(part, [flow.prepare, *stages, *flow.last]) for part in read(flow, plan.work[0])
    )
    assert first.result is not None
    assert second.result is not None
    assert (first.result.part, first.result.published) == (0, False)
    assert (second.result.part, second.result.published) == (1, True)
    assert first.result.counts == second.result.counts == {"edited": 2}
    assert first.seconds.keys() == {"read", "prepare", "decode", "finish", "commit"}
    assert (tmp_path / "out/0.tar").is_file()


def test_a_staged_part_says_what_its_steps_took(tmp_path: Path) -> None:
    """The header has the seconds of all steps up to the commit, which cannot know its own."""
    write_shard(tmp_path / "in/0.tar", [raw_sample(key, ["a cat", "a fox"]) for key in "ab"])
    plan = fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")
    flow = flow_of(plan)
    part = next(read(flow, plan.work[0]))
    compute_part(part, [flow.prepare, Operator("decode", invert), *flow.last])
    (name,) = plan.output.list("_parts/")
    header = header_of(from_ipc(plan.output.get(name)))
    assert header.seconds.keys() == {"read", "prepare", "decode", "finish"}
    assert header.fingerprint == plan.fingerprint
