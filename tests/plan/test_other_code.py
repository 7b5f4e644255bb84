"""An output that other code began: refused by its hash, resumed when the hash is accepted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.config.load import ConfigError
from pipeline.execution.operators import Operator, compute_part, flow_of, read
from pipeline.plan import code
from pipeline.plan.plan import Plan
from tests.committing import invert
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard

OTHER = "0" * 12


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """Plans a run over one shard of two parts."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a", ["a cat", "a fox"]), raw_sample("b")])
    return lambda **run: fake_plan(
        f"{tmp_path}/in/*.tar", f"{tmp_path}/out", run={"part_size": 2, **run}
    )


@pytest.fixture
def other_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """From its call on, this process has other sources."""

    def change() -> None:
        monkeypatch.setattr(code, "hash_of", lambda root: OTHER)
        code.code_hash.cache_clear()

    yield change
    code.code_hash.cache_clear()


def stage_first_part(plan: Plan) -> None:
    flow = flow_of(plan)
    part = next(read(flow, plan.work[0]))
    compute_part(part, [flow.prepare, Operator("decode", invert), *flow.last])


def test_where_only_the_code_differs_the_error_says_how_to_resume(
    planned: Callable[..., Plan], other_code: Callable[[], None]
) -> None:
    """Both hashes, and the key that accepts the new one; a wrong hash is not accepted."""
    run_fake(planned())
    first = code.code_hash()
    other_code()
    with pytest.raises(ConfigError, match=f"was computed by the code {first}") as error:
        planned()
    assert f"run.accept_code={OTHER} resumes" in str(error.value)
    with pytest.raises(ConfigError, match="nothing else differs"):
        planned(accept_code=first)


def test_accepted_code_resumes_and_the_marker_names_both(
    planned: Callable[..., Plan], other_code: Callable[[], None], tmp_path: Path
) -> None:
    """Rows keep the output's fingerprint, so that one output holds one."""
    plan = planned()
    first = code.code_hash()
    (tmp_path / "out/_run").mkdir(parents=True)
    record = {"fingerprint": plan.fingerprint, "inputs": plan.fingerprint_inputs}
    (tmp_path / "out/_run/run.json").write_text(json.dumps(record))
    stage_first_part(plan)
    other_code()
    resumed = planned(accept_code=OTHER)
    assert resumed.fingerprint == plan.fingerprint
    assert not run_fake(resumed).work
    marker = json.loads((tmp_path / "out/0_stats.json").read_text())
    assert marker["codes"] == sorted([first, OTHER])
    assert marker["fingerprint"] == plan.fingerprint


def test_a_worker_with_other_code_stages_nothing(
    planned: Callable[..., Plan], other_code: Callable[[], None]
) -> None:
    """A node with another installation is not one of this run."""
    plan = planned()
    flow = flow_of(plan)
    part = next(read(flow, plan.work[0]))
    other_code()
    with pytest.raises(code.CodeDiffersError, match="install the same version"):
        compute_part(part, [flow.prepare, Operator("decode", invert), *flow.last])
    with pytest.raises(code.CodeDiffersError):
        flow.load("fused")
    assert list(plan.output.list("_parts/")) == []


def test_an_output_of_a_version_without_a_hash_is_not_resumed(
    planned: Callable[..., Plan], tmp_path: Path
) -> None:
    """0.1.0 wrote its version in the place of the hash."""
    plan = planned()
    (tmp_path / "out/_run").mkdir(parents=True)
    old = plan.fingerprint_inputs | {"code": {"overpaint": "0.1.0"}}
    record = {"fingerprint": "f00d", "inputs": old}
    (tmp_path / "out/_run/run.json").write_text(json.dumps(record))
    with pytest.raises(
        ConfigError, match=r"written by version 0\.1\.0, which this version reads but"
    ):
        planned()
