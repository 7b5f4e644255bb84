"""Every command runs unharmed in a folder with modules of the same names as its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.edit.ray_job import ROOT, DriverJob, code_folders
from tests.jobs.conftest import LOOPBACK, Job
from tests.jobs.faulty import install

PACKAGES = ("pipeline", "jobs", "tests", "infra", "configs")
MODULES = ("pipeline", "jobs", "torch", "ray", "numpy", "pyarrow", "diffusers", "yaml", "fsspec")


def plant(folder: Path) -> Path:
    """A folder with packages and modules that must not be imported."""
    folder.mkdir()
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('planted: a package')\n")
    for name in MODULES:
        (folder / f"{name}.py").write_text("raise ImportError('planted: a module')\n")
    return folder


def console_script(folder: Path) -> Path:
    """What pip makes of ``[project.scripts]``: a file outside of the current folder.

    A ``+`` between arguments begins another command of the same process.
    """
    folder.mkdir()
    script = folder / "overpaint"
    script.write_text(
        "import sys\nfrom jobs.cli import main\n"
        "if __name__ == '__main__':\n"
        "    for command in '\\0'.join(sys.argv[1:]).split('\\0+\\0'):\n"
        "        code = main(command.split('\\0'))\n"
        "        if code:\n"
        "            sys.exit(f'{command}: {code}')\n"
    )
    return script


def in_folder(command: list[str], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | dict([LOOPBACK]) | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_run_on_ray_is_unharmed(
    job: Job, digests: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    """Driver and workers; then the commands that read its output, in the same folder."""
    folder, script = plant(tmp_path / "here"), console_script(tmp_path / "bin")
    output, env = tmp_path / "out", install(tmp_path / "site", faults=False)
    fast = ["run.num_cpus=2", "model.device=cpu", "run.layout=fused"]
    done = in_folder([sys.executable, str(script), *job.arguments(output, *fast)], folder, **env)
    assert done.returncode == 0, done.stderr
    assert "planted" not in done.stdout + done.stderr
    assert "3 shards published, 0 to do" in done.stdout
    lines = [line for line in done.stderr.splitlines() if "images/s" not in line]
    assert lines == [], "a line of Ray's came through without -v"
    commands = (
        *("status", str(output), "+"),
        *("verify", str(output), "+"),
        *("report", str(output), "+"),
        *("refilter", str(output), "--set", "mask_area >= 0", "--dry-run", "+"),
        *("mix", str(tmp_path / "mixed"), "--edited", str(output), "+"),
        *(*job.arguments(output, *fast), "--dry-run"),
    )
    done = in_folder([sys.executable, str(script), *commands], folder, **env)
    assert done.returncode == 0, done.stderr
    assert "planted" not in done.stdout + done.stderr
    assert not any(folder.rglob("*.pyc")), "something in the folder was imported"


def test_python_m_does_not_import_from_the_current_folder(tmp_path: Path) -> None:
    """Python puts it first on the path; what -m names itself is found before that can be undone."""
    folder = plant(tmp_path / "here")
    for file in [*folder.glob("jobs*/*"), folder / "jobs.py"]:
        file.unlink()
    (folder / "jobs").rmdir()
    done = in_folder([sys.executable, "-m", "jobs.cli", "demo-data", "in", "--shards", "1"], folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "in/00000.tar").is_file(), "the current folder itself stays the same"


def test_python_m_in_a_checkout_keeps_it_on_the_path() -> None:
    """Without installing, that is where the code is."""
    code = "import sys, jobs; print(sys.path[0])"
    done = in_folder([sys.executable, "-c", f"import sys; sys.argv[0] = '-m'; {code}"], ROOT)
    assert done.stdout.strip() in ("", str(ROOT))


def test_the_drivers_folder_is_not_on_the_workers_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a checkout is, since workers may not find it by themselves."""
    monkeypatch.chdir(tmp_path)
    job = DriverJob(verbose=True)
    assert job._runtime_env_has_working_dir()
    assert list(job._get_proto_job_config().py_driver_sys_path) == [str(ROOT)] == code_folders()
    monkeypatch.setattr("jobs.edit.ray_job.ROOT", tmp_path)
    assert code_folders() == [], "an installed package"
