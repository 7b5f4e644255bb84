"""Newer families on Ray: a run with two buckets, killed and resumed, writes the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import make_plan
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import Job
from tests.jobs.edit.test_layouts import wait_for_first_part
from tests.models.test_qwen_image import make_tiny_qwen_image
from tests.models.test_sana import make_tiny_sana
from tests.samples import encode, pixels, raw_sample, write_shard

pytestmark = [pytest.mark.slow, pytest.mark.sweep]
SHAPES = ((48, 64), (64, 48), (48, 64), (64, 48))


@pytest.mark.parametrize("make", [make_tiny_qwen_image, make_tiny_sana])
def test_a_killed_run_is_resumed_to_the_same_bytes(
    make: Callable[[Path], Path],
    job: Job,
    digests: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    """SIGKILL after the first part; texts of one batch differ in length."""
    for number in range(2):
        samples = [
            raw_sample(f"{number}{place}", ["a cat", "a red dog on the circle"])
            | {"png": encode(pixels(place, *shape))}
            for place, shape in enumerate(SHAPES)
        ]
        write_shard(tmp_path / f"in/{number}.tar", samples)
    overrides = [
        f"input.shards={tmp_path}/in/*.tar",
        f"model.path={make(tmp_path / 'model')}",
        "model.buckets=[[32, 48], [48, 32]]",
        "run.part_size=2",
        "run.layout=fused",
        "method.mask.floor=0",
    ]
    plain, output = tmp_path / "plain", tmp_path / "out"
    config = load_config(job.folder / "job.yaml", [*overrides, f"output.path={plain}"])
    assert not run_loop(make_plan(config, "cpu")).work
    process = job.start(output, *overrides)
    wait_for_first_part(process, output)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert digests(output) != digests(plain), "killed too late to show anything"
    done = job.run(output, *overrides)
    assert done.returncode == 0, done.stderr + done.stdout
    assert digests(output) == digests(plain)
    assert len(digests(plain)) == 4
    assert not verify(Store(str(output))).problems
