"""What reads and writes starts without torch, which takes 2 s and 140 MB of each worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.samples import raw_sample, write_shard

RUN = """
import sys
from pipeline.config.load import parse_config
from pipeline.execution.operators import compute_part, flow_of, read
from pipeline.plan.plan import make_plan

shards, output = sys.argv[1:]
tree = {"input": {"shards": shards}, "output": {"path": output}, "model": {"path": "bundled"}}
plan = make_plan(parse_config(tree), "cpu")
flow = flow_of(plan)
for part in read(flow, plan.work[0]):
    part = compute_part(part, [flow.prepare, *flow.last])
print(part.result.published, sorted({"torch", "webdataset", "diffusers"} & {*sys.modules}))
"""


def test_reading_and_publishing_import_no_torch(tmp_path: Path) -> None:
    """A whole shard, from its tar to its marker; the stages alone are left out."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a", png=b"no image"), raw_sample("b", [""])])
    command = [sys.executable, "-c", RUN, f"{tmp_path}/in/*.tar", f"{tmp_path}/out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True []\n"
