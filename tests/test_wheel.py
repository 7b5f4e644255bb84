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


def test_demo_runs_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """In a new environment outside the checkout, `overpaint demo` edits images.

    The environment uses the libraries of this one by path, to save a second download. The project
    itself is not on that path.
    """
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin/python"
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    subprocess.run(command, check=True, timeout=120)
    libraries = sysconfig.get_paths()["purelib"]
    site = next((home / "lib").glob("python*")) / "site-packages"
    (site / "libraries.pth").write_text(libraries + "\n")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # Ray starts its workers with this interpreter, so they use the installed project too.
    small = ["input.limit=8", "method.steps=5", "run.layout=fused"]
    result = subprocess.run(
        [str(home / "bin/overpaint"), "demo", *small],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    assert (tmp_path / "runs/demo/contact_sheet.png").is_file()
    assert "report: runs/demo/out/_run/report.html" in result.stdout
    assert (tmp_path / "runs/demo/out/_run/report.html").is_file()
    assert (tmp_path / "runs/demo/out/00000.parquet").is_file()
    where = "import pipeline; print(pipeline.__file__)"
    shown = subprocess.run([str(python), "-c", where], cwd=tmp_path, capture_output=True, text=True)
    assert str(home) in shown.stdout
