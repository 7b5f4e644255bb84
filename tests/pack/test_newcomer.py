"""A newcomer's way: photos and a table of captions, packed and edited by the bundled model."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image
from pyarrow import parquet

from jobs.cli import main
from pipeline.config.load import load_config
from pipeline.demo.captions import caption
from pipeline.demo.world import Scene, SceneObject, paint
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import make_plan


def test_photos_and_captions_become_edits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """pack, then edit with a substitution table, in the local loop."""
    photos = tmp_path / "photos"
    photos.mkdir()
    with open(photos / "captions.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "text"])
        for number, color in enumerate(("red", "green")):
            scene = Scene(
                "the sea", (0.2, 0.4, 0.6), (SceneObject("circle", color, 0.5, 0.5, 0.2),)
            )
            Image.fromarray(paint(scene)).save(photos / f"{number}.png")
            table.writerow([f"{number}.png", caption(scene)])
    shards = tmp_path / "shards"
    assert main(["pack", str(shards), str(photos)]) == 0
    assert "next: overpaint edit" in capsys.readouterr().out
    settings = [
        f"input.shards={shards}/*.tar",
        f"output.path={tmp_path}/edited",
        "input.substitutions={circle: [square]}",
        "method.steps=12",
        "method.mask.num_noises=4",
    ]
    plan = run_loop(make_plan(load_config("demo", settings), "cpu"))
    assert plan.work == []
    rows = parquet.read_table(tmp_path / "edited/00000.parquet").to_pylist()
    assert [(row["key"], row["status"]) for row in rows] == [("0", "edited"), ("1", "edited")]
    assert all("square" in row["edit_text"] for row in rows)
