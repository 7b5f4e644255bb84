"""The score pool and filters on Ray: the same bytes as from the local loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.config.load import load_config
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import make_plan
from tests.jobs.conftest import Job
from tests.tiny_scorers import make_tiny_scorers

pytestmark = pytest.mark.slow


def test_a_score_pool_writes_the_same_bytes_as_the_local_loop(
    job: Job, digests: Callable[[Path], dict[str, str]], tmp_path: Path, ray_address: str
) -> None:
    """With four pools, one of two actors, and a filter on a network's score.

    Rejected images are equal too.
    """
    scores = make_tiny_scorers(tmp_path)
    tree = yaml.safe_load((job.folder / "job.yaml").read_text())
    tree |= {"scores": {name: scores[name] for name in ("clip", "dino")}}
    tree |= {"filters": ["clip_image >= 0.9"]}
    file = tmp_path / "scored.yaml"
    file.write_text(yaml.safe_dump(tree))
    plan = make_plan(load_config(file, [f"output.path={tmp_path}/plain"]), "cpu")
    assert run_loop(plan).work == []
    plain = digests(tmp_path / "plain")
    assert any(name.startswith("_rejected/") for name in plain)
    (tmp_path / "job.yaml").write_text(file.read_text())
    sizes = ("stages.decode.actors=2", "stages.score.actors=1")
    overrides = ("run.layout=pools", f"run.address={ray_address}", *sizes)
    done = Job(tmp_path, ()).run(tmp_path / "out", *overrides)
    assert done.returncode == 0, done.stderr + done.stdout
    assert digests(tmp_path / "out") == plain
