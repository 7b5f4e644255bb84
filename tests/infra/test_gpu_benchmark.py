"""The one command for a GPU: its order, its minutes, resuming; its whole way on a CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.benchmarks.gpu import SIZES, Step, main, parse_arguments, size_of, steps_of
from infra.benchmarks.gpu_stages import stages
from infra.benchmarks.gpu_steps import Task, options_of, published_rate, run_step
from tests.models.test_flux_1 import make_tiny_flux
from tests.parts import make_config
from tests.tiny_models import make_tiny_sdxl

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "infra" / "benchmarks" / "gpu.sh"


class Fake:
    """Stands for the process of a step: writes its JSON, fails, or takes too long."""

    started: list[dict[str, Any]]
    outcomes: dict[str, int | None]

    def __init__(self, words: list[str], **_: Any) -> None:
        self.task = json.loads(words[-1])
        Fake.started.append(self.task)
        name = Path(self.task["out"]).stem
        self.code = Fake.outcomes.get(name, 0)
        Path(self.task["out"]).write_text('{"runs": {}}')

    def wait(self, timeout: float | None = None) -> int:
        if self.code is None and timeout is not None:
            raise subprocess.TimeoutExpired("step", timeout)
        return self.code or 0

    def kill(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    Fake.started, Fake.outcomes = [], {}
    monkeypatch.setattr("infra.benchmarks.gpu.subprocess.Popen", Fake)
    return Fake


def names(out: Path) -> set[str]:
    return {path.stem for path in out.glob("*.json")} - {"summary"}


def test_each_step_leaves_a_json_and_done_ones_are_skipped(
    fake: type[Fake], tmp_path: Path
) -> None:
    """What failed or ran out of time has no JSON in the folder, is named, and runs again."""
    fake.outcomes = {"sd15_plain": None, "sd15_compiled": 1}
    words = ["--out", str(tmp_path), "--sizes", "sd15", "--minutes", "3", "--keep"]
    assert main(words) == 1
    done = {"machine", "tests", "sd15_model", "sd15_stages", "sd15_peers"}
    assert names(tmp_path) == done
    report = json.loads((tmp_path / "summary.json").read_text())
    assert report["not_done"] == ["sd15_plain", "sd15_compiled"]
    assert (tmp_path / "unfinished" / "sd15_plain.json").exists()
    fake.outcomes, fake.started = {}, []
    assert main(words) == 0
    assert [task["kind"] for task in fake.started] == ["plain", "compiled"]
    assert names(tmp_path) == done | {"sd15_plain", "sd15_compiled"}


def test_steps_stay_within_the_minutes(fake: type[Fake], tmp_path: Path) -> None:
    """A step gets at most twice its share of the time left; with none left, steps are left out."""
    words = ["--out", str(tmp_path), "--sizes", "sd15", "--minutes"]
    assert main([*words, "0.01"]) == 1
    assert fake.started == []
    assert main([*words, "10"]) == 0
    limits = {task["kind"]: task["limit_s"] for task in fake.started}
    assert limits["machine"] == pytest.approx(2 * 600 / 26, rel=0.05)
    assert limits["peers"] == pytest.approx(600, rel=0.05)


def test_nothing_runs_on_a_machine_without_its_gpu(fake: type[Fake], tmp_path: Path) -> None:
    """If the first step fails, no other is started."""
    fake.outcomes = {"machine": 1}
    assert main(["--out", str(tmp_path), "--minutes", "1"]) == 1
    assert [task["kind"] for task in fake.started] == ["machine"]


def test_a_random_networks_folder_goes_when_its_size_is_done(
    fake: type[Fake], tmp_path: Path
) -> None:
    """Two sizes of tens of GB need not be on the disk at once; an unfinished one stays."""
    folder = tmp_path / "models" / "random_sd3_bfloat16"
    words = ["--out", str(tmp_path), "--sizes", "sd3", "--models", str(tmp_path / "models")]
    folder.mkdir(parents=True)
    fake.outcomes = {"sd3_plain": 1}
    assert main(words) == 1
    assert folder.exists()
    fake.outcomes = {}
    (tmp_path / "sd3_peers.json").unlink()
    assert main(words) == 0
    assert not folder.exists()


def test_sizes_are_named_or_folders() -> None:
    """A folder has nothing to draw; an unknown name says what is allowed."""
    options = parse_arguments(["--edits", "4", "--set", "method.steps=2"])
    drawn = [step.name for step in steps_of([SIZES["sd3"]], ["tests", "peers"])]
    assert drawn == ["machine", "sd3_model", "sd3_stages", "sd3_plain", "sd3_compiled"]
    mine = size_of("mine=/models/mine", options)
    assert (mine.model, mine.edits, mine.overrides) == ("/models/mine", 4, ("method.steps=2",))
    assert Step("model", mine) not in steps_of([mine])
    with pytest.raises(SystemExit, match="--sizes sd9: allowed are sd15, sdxl, sd3, flux"):
        size_of("sd9", options)


def test_published_rates_are_found_by_name() -> None:
    """As torch names the cards; an unknown one has none."""
    assert published_rate("NVIDIA H200") == 989e12
    assert published_rate("NVIDIA H100 PCIe") == 756e12
    assert published_rate("NVIDIA L40S") == 362e12
    assert published_rate("") is None


def test_the_compiled_step_compiles_both_sides() -> None:
    """With recorded launches on a GPU; code is kept beside the random models."""
    task = Task("compiled", "x.json", "cuda", "bfloat16", 100.0, "bundled", "/m", 16, 8, ("a=b",))
    options = options_of(task, compiled=True)
    assert options.compiled
    assert "model.compile=cuda_graphs" in options.overrides
    assert "model.compile_cache=/m/compiled" in options.overrides
    assert options.overrides[-1] == "a=b"
    assert (options.edits, options.baseline_edits, options.time_limit_s) == (16, 8, 85.0)


def test_a_missing_gpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step of the machine says what torch and nvidia-smi find."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    task = Task("machine", str(tmp_path / "machine.json"), "cuda", "bfloat16", 10.0)
    with pytest.raises(RuntimeError, match=r"finds no GPU; nvidia-smi says: "):
        run_step(task)


def test_stages_have_utilisation_memory_and_handover(tiny_model_folder: Path) -> None:
    """For each stage; every figure is set and the handover's share is below the whole."""
    config = make_config(mask={"floor": 0.0}, steps=4)
    model = config.model.model_copy(update={"path": str(tiny_model_folder), "size": 32})
    report = stages(config.model_copy(update={"model": model}), "cpu", 4, published_rate)
    assert report["counts"] == {"edited": 4}
    assert list(report["stages"]) == ["mask", "encode", "decode"]
    for figures in report["stages"].values():
        assert figures["flop"] > 0
        assert 0 < figures["mfu_of_measured_rate"] < 1
        assert 0 < figures["handover_share"] < 1
        assert (figures["micro_batch"], figures["halvings"]) == (32, 0)
        assert figures["memory_peak_bytes"] > 0
    encode, decode = report["stages"]["encode"], report["stages"]["decode"]
    assert encode["bytes_out"] == decode["bytes_in"] > encode["bytes_in"]


def test_the_script_passes_shellcheck() -> None:
    """shellcheck finds no mistake."""
    tool = shutil.which("shellcheck", path=Path(sys.executable).parent)
    assert tool is not None
    subprocess.run([tool, "--severity=warning", str(SCRIPT)], check=True)


def test_a_step_without_its_parent_does_nothing(tmp_path: Path) -> None:
    """A step whose command was killed must not write beside the command that resumes it."""
    out = tmp_path / "tests.json"
    task: dict[str, Any] = {
        "parent": 1,
        "kind": "tests",
        "out": str(out),
        "device": "cpu",
        "limit_s": 9.0,
    }
    task["dtype"] = "float32"
    words = [sys.executable, "-m", "infra.benchmarks.gpu", "--task", json.dumps(task)]
    assert subprocess.run(words, cwd=ROOT).returncode == 1
    assert not out.exists()


@pytest.mark.sweep
@pytest.mark.timeout(1500)
def test_killed_and_resumed_it_has_every_json(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Its whole way on a CPU, with tiny networks and without Ray; killed in the middle."""
    absent = tmp_path / "absent" / "ray"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ImportError('no Ray here')\n")
    folders = {
        "sd15": tiny_model_folder,
        "sdxl": make_tiny_sdxl(tmp_path / "sdxl"),
        "flux": make_tiny_flux(tmp_path / "flux"),
    }
    out = tmp_path / "out"
    words = [str(SCRIPT), "9", "--device", "cpu", "--dtype", "float32", "--edits", "4"]
    words += ["--sizes", *(f"{name}={folder}" for name, folder in folders.items())]
    words += ["--set", "method.steps=2", "method.mask.num_noises=1", "model.size=32"]
    words += ["--out", str(out), "--models", str(tmp_path / "models"), "--skip", "compiled"]
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": f"{absent.parent}{os.pathsep}{ROOT}",
    }
    start = time.monotonic()
    process = subprocess.Popen(words, env=environment)
    while not (out / "unfinished" / "sdxl_stages.log").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert {"machine.json", "sd15_stages.json", "sd15_plain.json"} <= set(before)
    assert subprocess.run(words, env=environment).returncode == 0
    assert time.monotonic() - start < 2 * 9 * 60
    expected = {"machine", "tests"}
    expected |= {f"{name}_{kind}" for name in folders for kind in ("stages", "plain", "peers")}
    assert names(out) == expected
    assert all((out / name).stat().st_mtime_ns == when for name, when in before.items())
    report = json.loads((out / "summary.json").read_text())
    assert report["not_done"] == []
    assert report["skipped"]["sd15_peers"] == "Ray is absent: no Ray here"
    assert set(report["sizes"]["sd15"]["plain"]["ratio"]) == {"one_edit", "four_edits"}
    assert report["sizes"]["flux"]["handover_share"]["encode"] > 0
