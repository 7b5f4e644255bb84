"""The wheel contains model and configs, and works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from jobs import exit_codes
from tests.test_imports import imports_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return next(folder.glob("*.whl"))


def test_wheel_carries_model_configs_and_no_tests(wheel: Path) -> None:
    """The wheel has the model, the configs and the report's files, but no tests."""
    names = zipfile.ZipFile(wheel).namelist()
    assert "pipeline/demo/model/unet/diffusion_pytorch_model.safetensors" in names
    assert "pipeline/configs/demo.yaml" in names
    for name in ("page.html.j2", "page.css", "data.js", "card.js", "list.js", "controls.js"):
        assert f"pipeline/report/{name}" in names
    assert "pipeline/configs/diffedit_sd15_512.yaml" in names
    assert {name.split("/")[0] for name in names} <= {
        "pipeline",
        "jobs",
        *(name.split("/")[0] for name in names if ".dist-info/" in name),
    }
    assert wheel.stat().st_size < 40_000_000


def test_experiments_are_not_in_the_wheel(wheel: Path) -> None:
    """No file of training and the augmentation experiment is in it, nor imported by what is."""
    names = zipfile.ZipFile(wheel).namelist()
    absent = ("jobs/augmentation", "jobs/train_demo")
    assert [name for name in names if name.startswith(absent)] == []
    modules = tuple(name.replace("/", ".") for name in absent)
    importing = {
        name
        for name in names
        if name.endswith(".py")
        and any(module.startswith((*modules, "infra")) for module in imports_of(ROOT / name))
    }
    assert importing == {"jobs/cli.py"}  # inside the function that looks for it first


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment outside of the checkout in which the wheel is installed.

    The environment uses the libraries of this one by path, to save a second download. The project
    itself is not on that path.
    """
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=True)
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, timeout=120)
    libraries = sysconfig.get_paths()["purelib"]
    site = next((home / "lib").glob("python*")) / "site-packages"
    (site / "libraries.pth").write_text(libraries + "\n")
    return home


def run_outside(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_demo_runs_from_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    """In an empty environment outside of the checkout, `overpaint demo` edits images."""
    # Ray starts its workers with this interpreter, so they too see the installed project alone.
    small = ["input.limit=8", "method.steps=5", "run.layout=fused"]
    done = run_outside([str(installed / "bin/overpaint"), "demo", *small], tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "runs/demo/contact_sheet.png").is_file()
    assert "report: runs/demo/out/_run/report.html" in done.stdout
    assert (tmp_path / "runs/demo/out/_run/report.html").is_file()
    assert (tmp_path / "runs/demo/out/00000.parquet").is_file()
    where = "import pipeline; print(pipeline.__file__)"
    shown = run_outside([str(installed / "bin/python"), "-c", where], tmp_path)
    assert str(installed) in shown.stdout


def test_augmentation_needs_a_checkout(installed: Path, tmp_path: Path) -> None:
    """The installed command says so in one line, with the exit code of a wrong argument."""
    command = [str(installed / "bin/overpaint"), "evaluate", "augmentation"]
    done = run_outside(command, tmp_path)
    assert done.returncode == exit_codes.BAD_CONFIG
    (line,) = done.stderr.splitlines()
    assert "evaluate augmentation needs a checkout" in line
    assert not (tmp_path / "runs").exists()
