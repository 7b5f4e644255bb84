"""An output that cannot be written ends a command at its start, without the advice to run again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from jobs.cli import main
from jobs.edit.driver import edit
from pipeline.config.load import ConfigError
from pipeline.storage.local_folder import LocalFolder
from pipeline.storage.store import Store
from tests.committing import make_config, run
from tests.fake_job import fake_plan
from tests.jobs.conftest import Job
from tests.samples import raw_sample, write_shard


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the system forbid writing to a folder, as it does to anyone but root."""

    def forbid(folder: Path, *, read_only: bool = False) -> None:
        allowed = os.access
        monkeypatch.setattr(
            os, "access", lambda path, mode: Path(path) != folder and allowed(path, mode)
        )
        flags = SimpleNamespace(f_flag=os.ST_RDONLY if read_only else 0)
        monkeypatch.setattr(os, "statvfs", lambda path: flags)

    return forbid


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_file_in_place_of_the_output_ends_edit(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """The output itself, or a folder above it."""
    (tmp_path / "out").write_text("a file")
    for output in (tmp_path / "out", tmp_path / "out/deep"):
        assert main([*job.arguments(output), *options]) == 2
        error = capsys.readouterr().err
        assert f"output.path='{output}': {tmp_path}/out is not a folder" in error
        assert "run the same command" not in error


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
@pytest.mark.parametrize("read_only", [False, True])
def test_an_output_that_may_not_be_written_ends_edit(
    job: Job,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    forbidden: Callable[..., None],
    options: list[str],
    read_only: bool,
) -> None:
    """No permission, or a read-only file system; nothing is written."""
    forbidden(tmp_path, read_only=read_only)
    why = "is on a read-only file system" if read_only else "no permission to write in"
    assert main([*job.arguments(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"overpaint: output.path='{tmp_path}/out': ")
    assert why in error
    assert "run the same command" not in error
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_run_that_belongs_to_another_user_is_found(
    tmp_path: Path, forbidden: Callable[..., None]
) -> None:
    """The output itself may be writable."""
    (tmp_path / "_parts").mkdir()
    forbidden(tmp_path / "_parts")
    with pytest.raises(OSError, match=r"no permission to write in .*/_parts"):
        Store(str(tmp_path)).check_writable()


@pytest.mark.parametrize(
    "error",
    [PermissionError(errno.EACCES, "denied"), OSError(errno.EROFS, "read-only")],
    ids=["permission", "read-only"],
)
def test_a_refusal_that_shows_with_the_first_write_is_the_configurations_fault(
    tmp_path: Path, error: OSError
) -> None:
    """A network file system may answer wrongly when it is asked."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    plan = fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")
    with (
        mock.patch("jobs.edit.driver.make_plan", return_value=plan),
        mock.patch.object(LocalFolder, "create", side_effect=error),
        pytest.raises(ConfigError, match=r"output\.path=.*: cannot be written: "),
    ):
        edit(plan.config)


def test_a_bucket_that_may_only_be_read_is_found_by_a_probe(tmp_path: Path) -> None:
    """The probe is removed again."""
    store = Store(f"memory://{tmp_path}")
    store.check_writable()
    assert store.list() == {}
    with (
        mock.patch.object(store.backend, "write", side_effect=PermissionError("Forbidden")),
        pytest.raises(PermissionError, match=r"write to memory://.*Forbidden; check the cred"),
    ):
        store.check_writable()


def test_every_command_that_writes_checks_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], forbidden: Callable[..., None]
) -> None:
    """Exit code 2 and one line; none says to run the same command."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    run(make_config(f"{tmp_path}/in/*.tar"), Store(f"{tmp_path}/out"))
    (tmp_path / "out/_run/config.yaml").write_text(
        f"input: {{shards: {tmp_path}/in/*.tar}}\noutput: {{path: {tmp_path}/out}}\n"
    )
    closed = tmp_path / "closed"
    closed.mkdir()
    forbidden(closed)
    commands = [
        ["demo", "--folder", f"{closed}/demo"],
        ["demo-data", f"{closed}/data"],
        ["mix", f"{closed}/mixed", "--edited", f"{tmp_path}/out"],
        ["mix", f"{closed}/mixed", "--edited", f"{tmp_path}/out", "--dry-run"],
        ["evaluate", "demo", "--out", f"{closed}/evaluation"],
        ["benchmark", "--out", f"{closed}/result"],
    ]
    for command in commands:
        assert main(command) == 2, command
        error = capsys.readouterr().err
        assert f"no permission to write in {closed}" in error, command
        assert "run the same command" not in error
        assert not list(closed.iterdir())
    forbidden(tmp_path / "out")
    for options in ([], ["--dry-run"]):
        assert main(["refilter", f"{tmp_path}/out", "--set", "edit_rms >= 0.5", *options]) == 2
        assert "no permission to write in" in capsys.readouterr().err
