"""From a benchmark's files to its table: the figures follow the benchmark's protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.cli import main
from pipeline.config.buckets import Sizes
from pipeline.evaluation.measure import _figures, measure, summary
from pipeline.evaluation.tasks import Task, write_shards
from pipeline.storage.store import Store
from tests.committing import SIZE
from tests.evaluation.test_formats import pie_entry, write_pie
from tests.fake_job import fake_plan, run_fake
from tests.jobs.conftest import LOOPBACK
from tests.jobs.evaluate.conftest import Evaluate
from tests.jobs.evaluate.test_benchmarks import write_tedbench
from tests.reference.background import mse, psnr_db, ssim
from tests.samples import encode, pixels

BILINEAR = Image.Resampling.BILINEAR


def task(number: int, edit_text: str, truth: np.ndarray | None) -> Task:
    """A task with an image of the model's own size, so that nothing is resized."""
    image = encode(pixels(number, SIZE, SIZE))
    return Task(f"{number:03d}", image, "png", "a dog", edit_text, "group", truth)


def test_figures_follow_the_protocol(tmp_path: Path) -> None:
    """PSNR, SSIM and MSE of both forms equal a reference; the mask's IoU is counted by hand."""
    truth = np.zeros((SIZE, SIZE), bool)
    truth[8:24, 8:32] = True  # exactly the cells that the stand-in method masks
    truth[0:4, 0:4] = True  # and a cell that it does not mask
    full = np.ones((SIZE, SIZE), bool)
    tasks = [
        task(0, "a cat", truth),
        task(1, "a dog", truth),  # unchanged, since caption and edit text agree
        task(2, "bad", truth),
        task(3, "a cat", full),
    ]
    write_shards(tasks, Store(str(tmp_path)))

    off: dict[str, Any] = {"method": {"composite": {"enabled": False}}}
    plan = run_fake(fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out", **off), failing=["bad"])
    first, same, failed, everywhere = measure(plan.config, Sizes(SIZE))
    assert [item.status for item in (first, same, failed)] == ["edited", "unchanged", "failed"]
    assert failed.figures == {}

    before = pixels(0, SIZE, SIZE)
    after = 255 - before
    outside = ~truth
    blacked = [image * outside[..., None] for image in (before, after)]
    expected = {
        "psnr_frame_db": psnr_db(mse(*blacked)),
        "ssim_frame_e2": 100 * ssim(*blacked),
        "mse_frame_e4": 1e4 * mse(*blacked),
        "psnr_db": psnr_db(mse(before, after, outside)),
        "ssim_e2": 100 * ssim(before, after, outside),
        "mse_e4": 1e4 * mse(before, after, outside),
    }
    for name, value in expected.items():
        assert first.figures[name] == pytest.approx(value, rel=1e-5), name
    assert first.figures["mask_iou"] == pytest.approx(16 * 24 / (16 * 24 + 16))

    assert same.figures["psnr_db"] == 100.0
    assert same.figures["mask_iou"] == 0.0
    assert same.figures["edit_rms"] == 0.0
    assert "psnr_frame_db" not in everywhere.figures  # no pixel is background
    assert everywhere.figures["mask_iou"] == pytest.approx(16 * 24 / SIZE**2)

    found = summary([first, same, failed, everywhere])
    assert found["counts"] == {"edited": 2, "failed": 1, "unchanged": 1}
    assert found["edits_with_figure"]["psnr_db"] == 2
    assert found["figures"]["psnr_db"] == pytest.approx((first.figures["psnr_db"] + 100) / 2)


def test_scores_of_rows_have_the_units_of_published_tables() -> None:
    """Thousandths and hundredths; a negative similarity counts as zero."""
    image = pixels(1, SIZE, SIZE)
    row = {"score_lpips": 0.25, "score_clip_text_after": -0.5, "score_clip_image": 0.75}
    assert _figures(row, image, image, None, None) == {
        "lpips_e3": 250.0,
        "lpips_e2": 25.0,
        "clip_whole": 0.0,
        "clip_image": 75.0,
    }


def test_another_model_needs_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo's settings do not suit other models, so they are not used silently."""
    command = ["evaluate", "pie-bench", "--data", str(tmp_path), "--out", str(tmp_path / "o")]
    assert main([*command, "model.path=/some/model"]) == 2
    assert "model.path='/some/model' needs --config" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "methods", [["SDEdit"], pytest.param(["DiffEdit", "SDEdit"], marks=pytest.mark.sweep)], ids=len
)
def test_on_ray_the_same_images_are_measured(
    methods: list[str],
    tmp_path: Path,
    evaluate: Evaluate,
    tiny_model_folder: Path,
    ray_address: str,
) -> None:
    """The default is the job of ``overpaint edit``; shards and figures equal the local loop's."""
    data = write_tedbench(tmp_path / "ted")
    sweep = ("--sweep", "--ratios", "1", "--methods", ",".join(methods))
    plain = evaluate("tedbench", data, *sweep)
    command = [
        *("evaluate", "tedbench", "--data", str(data), "--out", str(tmp_path / "ray")),
        *("--config", "demo", "model.dtype=float32"),
        *(f"model.path={tiny_model_folder}", "method.steps=2", "method.mask.num_noises=1"),
        *(*sweep, "run.layout=fused", "stages.decode.actors=1"),
        f"run.address={ray_address}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *command],
        env=os.environ | dict([LOOPBACK]),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "report: " in done.stdout
    assert json.loads((tmp_path / "ray/evaluation.json").read_text()) == plain
    for name in (f"{method}-1" for method in methods):
        ours, theirs = (tmp_path / home / f"out/{name}/00000.tar" for home in ("ray", "o"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_an_interrupted_run_is_not_measured(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's exit code is returned, and no figures are written."""
    data = write_pie(tmp_path / "pie", {"0000": pie_entry(0)})
    monkeypatch.setattr("jobs.evaluate.command.edit", lambda config, **_: (75, None))
    command = ["evaluate", "pie-bench", "--data", str(data), "--out", str(tmp_path / "o")]
    assert main([*command, "--config", "demo", f"model.path={tiny_model_folder}"]) == 75
    assert not (tmp_path / "o/evaluation.json").exists()


@pytest.mark.slow
def test_a_sweep_on_the_demo_world_draws_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two methods, two ratios and three edits give JSON, table, plot and intervals."""
    command = [
        *("evaluate", "demo", "--plain", "--out", str(tmp_path), "--limit", "3", "--sweep"),
        *("--ratios", "0.3,1", "--methods", "DiffEdit,SDEdit"),
        *("method.steps=4", "method.mask.num_noises=1"),
    ]
    assert main(command) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert [(p["method"], p["ratio"]) for p in report["points"]] == [
        *(("DiffEdit", 0.3), ("DiffEdit", 1.0), ("SDEdit", 0.3), ("SDEdit", 1.0)),
    ]
    assert all("confirmed_e2" in point["figures"] for point in report["points"])
    assert all(not method["composite"]["enabled"] for method in report["methods"].values())
    (compared,) = report["compared"]
    assert compared["bootstrap"]["edits"] == 3
    assert len(compared["bootstrap"]["intervals"]) == len(compared["difference"])
    assert (tmp_path / "evaluation.png").is_file()
    assert "| SDEdit, 1 |" in (printed := capsys.readouterr().out)
    assert "resamples of 3 edits" in printed


@pytest.mark.slow
def test_card_measures_every_kind_and_the_model_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five edits, one of each kind, without the composite; and the card's tables in a file."""
    command = [
        *("evaluate", "demo", "--plain", "--card", "--out", str(tmp_path), "--limit", "5"),
        *("method.steps=4", "method.mask.num_noises=1"),
    ]
    assert main(command) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert not report["method"]["composite"]["enabled"]
    (found,) = report["ours"].values()
    assert {*found["groups"]} == {"color", "shape", "object", "background", "several"}
    assert found["edits_with_figure"]["cells_iou"] == 5
    assert found["figures"]["vae_db"] > 30
    assert {"reader_e2", "generated_one_e2", "generated_two_e2"} <= found["figures"].keys()
    card = (tmp_path / "card.md").read_text()
    assert "| background |" in card
    assert card in capsys.readouterr().out


def test_wrong_arguments_are_one_line_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without data, or with a folder that is not a benchmark: exit code 2."""
    assert main(["evaluate", "pie-bench"]) == 2
    assert "--data DIR is required" in capsys.readouterr().err
    assert main(["evaluate", "tedbench", "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "input_list.json" in error
    assert len(error.splitlines()) == 1
    out = ("--plain", "--limit", "1", "method.steps=1", "--out", str(tmp_path))
    assert main(["evaluate", "demo", "--card", "--sweep", *out]) == 2
    assert "--card measures one method" in capsys.readouterr().err
    data = str(write_tedbench(tmp_path / "ted"))
    assert main(["evaluate", "tedbench", "--data", data, "--kinds", "color", *out]) == 2
    assert "--kinds is only for demo, but the benchmark is tedbench" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "demo", "--kinds", "colour", *out])
    assert "'colour'; allowed are color, shape, object" in capsys.readouterr().err
