"""The command line: its output, and the exit codes that scripts rely on. No Ray is started here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest import mock

import pytest

from jobs.cli import main
from jobs.edit.progress import RunProgress, duration
from jobs.edit.summary_tables import print_summary
from jobs.logs import use_format
from jobs.supervise.starts import CannotGoOnError
from pipeline.plan.summary import RunSummary
from pipeline.records.staged import PartResult
from tests.jobs.conftest import Job


def test_dry_run_shows_the_plan_and_computes_nothing(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resolved config, fingerprint, shards to do and done, pools; and no output folder."""
    assert main([*job.arguments(tmp_path / "out"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "guidance_scale: 7.5" in text
    assert "fingerprint:" in text
    assert "to do:        3 shards: 00000 (0 parts staged), 00001" in text
    assert "done:         0 shards" in text
    for pool in ("mask", "encode", "decode"):
        assert pool in text
    assert "overpaint plan counts the memory of an actor" in text
    assert not (tmp_path / "out").exists()


def test_dry_run_of_a_finished_job_has_nothing_to_do(
    job: Job, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Published shards are listed as done."""
    assert main([*job.arguments(plain), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "done:         3 shards: 00000, 00001, 00002" in text
    assert "to do:        0 shards" in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("method.stepz=3", "did you mean 'steps'?"),
        ("model.path=/no/such/folder", "model.path='/no/such/folder'"),
        ("input.shards=/no/such/*.tar", "input.shards"),
    ],
)
def test_bad_configuration_exits_with_2(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, words: str
) -> None:
    """One line on stderr, no traceback, and a code that differs from that of a failed run."""
    assert main([*job.arguments(tmp_path / "out", override), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_verify_finds_damage(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An undamaged output verifies; one flipped byte in a tar does not."""
    assert main(["verify", str(plain)]) == 0
    assert capsys.readouterr().out.endswith("verified\n")
    damaged = tmp_path / "out"
    shutil.copytree(plain, damaged)
    tar = damaged / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    assert main(["verify", str(damaged)]) == 1
    assert "00000.tar" in capsys.readouterr().err


def test_demo_data_draws_shards_with_the_truth(tmp_path: Path) -> None:
    """Shards hold image, texts, true mask and true result of each sample."""
    import webdataset

    assert main(["demo-data", str(tmp_path), "--shards", "2", "--samples", "3"]) == 0
    samples = list(webdataset.WebDataset(str(tmp_path / "00001.tar"), shardshuffle=False))
    assert len(samples) == 3
    assert {"jpg", "txt", "edit.txt", "truth.png", "target.png", "json"} <= samples[0].keys()


@pytest.mark.parametrize("arguments", [["edit", "demo"], ["demo"]])
def test_workers_that_cannot_start_end_edit_and_demo_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """One line with the reason and how to resume, exit code 1, no traceback."""
    command, *rest = arguments
    places = ["--folder", str(tmp_path)] if command == "demo" else ["output.path=" + str(tmp_path)]
    reason = "a worker of the pool mask cannot start on here"
    with (
        mock.patch("jobs.commands.demo.write_demo_input"),
        mock.patch("jobs.edit.driver.edit", side_effect=CannotGoOnError(reason)) as edit,
        mock.patch("jobs.commands.demo.edit", edit),
    ):
        assert main([command, *rest, *places]) == 1
    assert capsys.readouterr().err == f"overpaint: {reason}; run the same command to resume\n"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["edti", "demo"], "edit"),
        (["statsu", "out"], "status"),
        (["Mix", "out"], "mix"),
        (["evaluate", "piebench"], "pie-bench"),
        (["evaluate", "demo", "--methods", "difedit"], "DiffEdit"),
        (["evaluate", "imagenet", "--split", "tests"], "test"),
        (["benchmark", "--dtype", "bfloat"], "bfloat16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_misspelt_command_or_choice_suggests_the_nearest(
    capsys: pytest.CaptureFixture[str], arguments: list[str], meant: str
) -> None:
    """As a misspelt key does; the allowed ones are listed too."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith(f"; did you mean '{meant}'?")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["edit", "difedit_sd15_512"], "; did you mean 'diffedit_sd15_512'?"),
        (["benchmark", "--sweep", "bach"], "; did you mean 'batch'?"),
    ],
)
def test_a_misspelt_name_in_a_command_suggests_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    """Of bundled configurations and of sweeps, which argparse does not check."""
    more = ["--out", str(tmp_path / "result")] if arguments[0] == "benchmark" else []
    assert main([*arguments, *more]) == 2
    assert capsys.readouterr().err.rstrip().endswith(hint)


def test_a_dry_run_in_json_is_one_line(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is on stdout: no table, no YAML."""
    arguments = job.arguments(tmp_path / "out", "run.log_format=json")
    try:
        assert main([*arguments, "--dry-run"]) == 0
    finally:
        use_format("text")
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = [json.loads(text) for text in said.err.splitlines()]
    assert line["message"] == "dry run"
    assert line["to_do"] == {"00000": 0, "00001": 0, "00002": 0}
    assert line["config"]["method"]["steps"] == 6


def summary_of(*, published: int, to_do: int) -> RunSummary:
    """A summary with so many shards published and to do, of a run that computed nothing."""
    return RunSummary(
        fingerprint="f",
        published=published,
        to_do=to_do,
        counts={},
        failures={},
        problems={},
        seconds={},
        num_evals={},
        halvings={},
        wall_s=1.0,
        images_per_s=0.0,
        edits_computed_now=0,
    )


def test_nothing_left_to_compute_is_said_only_where_nothing_is_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run whose shards cannot be read computes nothing either."""
    plan = mock.MagicMock()
    plan.config.output.path = "my out"
    print_summary(plan, summary_of(published=2, to_do=0))
    said = capsys.readouterr().out
    assert "there was nothing left to compute" in said
    assert "next: overpaint mix train --edited 'my out'\n" in said
    print_summary(plan, summary_of(published=0, to_do=2))
    said = capsys.readouterr().out
    assert "2 to do" in said
    assert "nothing was computed" in said
    assert "nothing left" not in said
    assert "next:" not in said


def test_the_progress_line_counts_parts_edits_and_failures() -> None:
    """Shards are counted by the results that published one."""
    left = mock.Mock(estimate=lambda: 12.0)
    with RunProgress(num_shards=4, num_done=1, every_s=1000.0, left=left) as progress:
        progress.update(PartResult("a", 0, {"edited": 3}, published=False))
        progress.update(PartResult("a", 1, {"edited": 2, "failed": 1}, published=True))
        progress.update(PartResult("a", 2, {}, published=True))  # two parts may find it complete
        line = progress.line()
    assert progress.num_done == 2
    assert "3 parts, 6 edits" in line
    assert "1 failed" in line
    assert "left" in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.6, "10 s"), (75, "1 min 15 s"), (7500, "2 h 05 min")]
)
def test_durations_are_printed_in_hours_minutes_and_seconds(seconds: float, text: str) -> None:
    """Seconds, minutes, and hours with minutes."""
    assert duration(seconds) == text


def test_overrides_may_follow_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`edit CONFIG --dry-run key=value` is parsed like `edit CONFIG key=value --dry-run`."""
    assert main(["edit", "demo", "--dry-run", "run.sead=1"]) == 2
    assert "did you mean 'seed'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["verify", str(tmp_path), "a=b"])
