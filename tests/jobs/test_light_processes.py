"""What each process of a run imports before it has to: torch takes a second of a CPU, Ray half."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.samples import raw_sample, write_shard

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "diffusers", "transformers", "webdataset")
PLANS = """
import ctypes, sys
from jobs.cli import main

def without_driver(name, *rest):
    if name == "libcuda.so.1":
        raise OSError(f"{name}: cannot open shared object file")
    return kept(name, *rest)

ctypes.CDLL, kept = without_driver, ctypes.CDLL
from jobs.edit.devices import device_of
from pipeline.config.load import load_config
config = load_config("demo", sys.argv[1:])
assert config.model.device == "auto"
assert device_of(config) == "cpu"
code = main(["edit", "demo", *sys.argv[1:], "--dry-run", "model.device=cpu"])
"""
# by process: what it imports before its first part
PROCESSES = {
    "driver": "import jobs.edit.driver, jobs.edit.planner",
    "reader and writer": "from jobs.edit.graph import _finish, _read",
    "journal": "import jobs.supervise.journal",
    "watchdog": "import jobs.supervise.watchdog, jobs.edit.worker",
    "retry worker": "import jobs.edit.part_runner",
    "calibration": "import jobs.edit.calibrate",
}


def imported(code: str, *arguments: str) -> set[str]:
    """The modules of ``HEAVY`` and Ray that a process has after running this code."""
    code += (
        f"\nimport sys; print(*sorted({{*{HEAVY!r}, 'ray'}} & {{*sys.modules}}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {*done.stderr.splitlines()[-1].split()}


def test_no_process_imports_torch_before_it_loads_a_network() -> None:
    """Nor diffusers nor transformers: an actor alone imports them, where it loads its stages."""
    code = "\n".join(PROCESSES.values())
    assert imported(code) == {"ray"}


def test_the_command_imports_neither_before_it_knows_its_config() -> None:
    """An error of the config is told at once."""
    assert imported("import jobs.cli") == set()


def test_planning_on_a_machine_without_a_gpu_imports_no_torch(tmp_path: Path) -> None:
    """``model.device: auto`` asks for NVIDIA's driver first; without it there is no GPU."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    places = f"input.shards={tmp_path}/in/*.tar", f"output.path={tmp_path}/out"
    assert imported(PLANS, *places) == {"ray"}
