"""From a benchmark's files to its table: what counts, and that the figures are the protocol's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from pipeline.evaluation.measure import measure, summary
from pipeline.evaluation.tasks import Task, write_shards
from tests.committing import SIZE
from tests.evaluation.test_formats import pie_entry, write_pie
from tests.fake_job import fake_plan, run_fake
from tests.reference.background import mse, psnr_db, ssim
from tests.samples import encode, pixels


def task(number: int, edit_text: str, truth: np.ndarray | None) -> Task:
    """A picture of the model's own size, so that nothing is resized."""
    picture = encode(pixels(number, SIZE, SIZE))
    return Task(f"{number:03d}", picture, "png", "a dog", edit_text, "group", truth)


def test_figures_are_the_protocol_s(tmp_path: Path) -> None:
    """PSNR, SSIM and MSE of both forms, by reference; the mask's IoU, counted by hand."""
    truth = np.zeros((SIZE, SIZE), bool)
    truth[8:24, 8:32] = True  # exactly the cells that the stand-in method masks
    truth[0:4, 0:4] = True  # and one that it does not
    full = np.ones((SIZE, SIZE), bool)
    tasks = [
        task(0, "a cat", truth),
        task(1, "a dog", truth),  # the texts agree: unchanged
        task(2, "bad", truth),
        task(3, "a cat", full),
    ]
    write_shards(tasks, tmp_path / "in")

    off = {"method": {"composite": {"enabled": False}}}
    plan = run_fake(fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out", **off), failing=["bad"])
    first, same, failed, everywhere = measure(plan.config, SIZE)
    assert [item.status for item in (first, same, failed)] == ["edited", "unchanged", "failed"]
    assert failed.figures == {}

    before = pixels(0, SIZE, SIZE)
    after = 255 - before
    outside = ~truth
    blacked = [picture * outside[..., None] for picture in (before, after)]
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


@pytest.mark.slow
def test_pie_bench_from_its_files_to_its_table(
    tmp_path: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command; published rows beside ours; a second run computes nothing again."""
    data = write_pie(tmp_path / "pie", {f"{number:04d}": pie_entry(number) for number in range(2)})
    out = tmp_path / "out"
    command = [
        *("evaluate", "pie-bench", "--data", str(data), "--out", str(out), "--config", "demo"),
        *(f"model.path={tiny_model_folder}", "method.steps=2", "method.mask.num_noises=1"),
    ]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| PnPInversion + P2P (published) | 11.65 | 27.22 | 54.55 | – | 84.76 |" in printed
    assert "| diffedit, 0.8 | – | " in printed
    assert "Not measured: structure_e3, lpips_frame_e3, clip_whole, clip_edited" in printed
    report = json.loads((out / "evaluation.json").read_text())
    ours = report["ours"]["diffedit, 0.8"]
    assert sum(ours["counts"].values()) == report["tasks"] == 2
    assert {"psnr_frame_db", "psnr_db", "mask_iou"} <= ours["figures"].keys()
    assert list(ours["groups"]) == ["1 change object"]
    tar = out / "out/00000.tar"
    before = tar.stat().st_mtime_ns
    assert main(command) == 0
    assert tar.stat().st_mtime_ns == before


@pytest.mark.slow
def test_demo_sweep_draws_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two methods at two ratios over two edits of the demo world: JSON, table and plot."""
    command = [
        *("evaluate", "demo", "--out", str(tmp_path), "--limit", "2", "--sweep"),
        *("--ratios", "0.5,1", "--methods", "DiffEdit,SDEdit"),
        *("method.steps=2", "method.mask.num_noises=1"),
    ]
    assert main(command) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert [(p["method"], p["ratio"]) for p in report["points"]] == [
        *(("DiffEdit", 0.5), ("DiffEdit", 1.0), ("SDEdit", 0.5), ("SDEdit", 1.0)),
    ]
    assert all("confirmed_e2" in point["figures"] for point in report["points"])
    assert (tmp_path / "evaluation.png").is_file()
    assert "| SDEdit, 1 |" in capsys.readouterr().out


def test_wrong_uses_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No data, a folder that is no benchmark: exit code 2 before anything is loaded."""
    assert main(["evaluate", "pie-bench"]) == 2
    assert "--data DIR must name the benchmark" in capsys.readouterr().err
    assert main(["evaluate", "tedbench", "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "input_list.json" in error
    assert len(error.splitlines()) == 1
