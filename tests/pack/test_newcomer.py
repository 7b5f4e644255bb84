"""A newcomer's way: the four commands of the README, from photos to a training set of COCO's form.

The bundled model edits painted photos, and the local loop stands in for Ray.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
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

README = Path(__file__).resolve().parents[2] / "README.md"
COLORS = ("red", "green")
QUICK = ["method.steps=12", "method.mask.num_noises=4"]
BOX = [38, 38, 52, 52]  # of the circle, in pixels


def commands() -> list[list[str]]:
    """The words of the README's second example."""
    section = README.read_text(encoding="utf-8").split("## From a folder of photos")[1]
    lines = re.findall(r"^    overpaint (.+)$", section.split("\n## ")[0], re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def draw_photos(folder: Path, *, with_boxes: bool) -> None:
    """Two photos with their captions in a table, or with captions and boxes in COCO's files."""
    folder.mkdir()
    images, captions = [], []
    for number, color in enumerate(COLORS):
        circle = SceneObject("circle", color, 0.5, 0.5, 0.2)
        scene = Scene("the sea", (0.2, 0.4, 0.6), (circle,))
        Image.fromarray(paint(scene)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 128, "height": 128})
        captions.append({"id": number, "image_id": number, "caption": caption(scene)})
    if not with_boxes:
        with open(folder / "captions.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "text"])
            table.writerows([f"{one['id']}.png", one["caption"]] for one in captions)
        return
    boxes = [{"id": number, "image_id": number, "category_id": 1, "bbox": BOX} for number in (0, 1)]
    names = {"categories": [{"id": 1, "name": "circle"}]}
    for name, tree in (
        ("captions", {"images": images, "annotations": captions}),
        ("instances", {"images": images, "annotations": boxes} | names),
    ):
        (folder / f"{name}.json").write_text(json.dumps(tree))


@pytest.mark.parametrize("with_boxes", [False, True], ids=["captions", "boxes"])
def test_four_commands_make_a_training_set(
    with_boxes: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pack, edit with a substitution table, mix as COCO, verify; read back by pycocotools."""
    from pycocotools.coco import COCO

    monkeypatch.chdir(tmp_path)
    draw_photos(tmp_path / "photos", with_boxes=with_boxes)
    pack, edit, mix, verify = commands()
    assert pack == ["pack", "shards", "photos"]
    if with_boxes:
        files = ["photos/captions.json", "photos/instances.json"]
        pack = ["pack", "shards", *files, "pack.images=photos"]
    assert main(pack) == 0
    assert "next: overpaint edit" in capsys.readouterr().out
    assert edit[:2] == ["edit", "diffedit_sd15_512"]
    table = [word.replace("{dog: [cat, fox]}", "{circle: [square, star]}") for word in edit[2:]]
    classes = ["labels.on_overlap=relabel", "labels.classes={circle: 1, square: 2, star: 3}"]
    plan = run_loop(make_plan(load_config("demo", [*table, *QUICK, *classes]), "cpu"))
    assert plan.work == []
    rows = parquet.read_table("edited/00000.parquet").to_pylist()
    edited = sum(row["status"] == "edited" for row in rows)
    assert len(rows) == 4
    assert edited >= 3
    assert main(mix) == 0
    assert main(verify) == 0
    found = COCO("train/annotations/captions_train.json")
    texts = " ".join(one["caption"] for one in found.anns.values())
    assert len(found.imgs) == 2 + min(2, edited)  # ratio=1
    assert "circle" in texts
    assert "square" in texts or "star" in texts
    labels = Path("train/annotations/instances_train.json")
    assert labels.exists() == with_boxes
    if not with_boxes:
        return
    instances = COCO(str(labels))
    assert len(instances.imgs) == len(found.imgs)
    for image in instances.imgs.values():
        (box,) = instances.loadAnns(instances.getAnnIds(image["id"]))
        is_original = "original" in image["file_name"]
        assert box["bbox"] == BOX
        (category,) = instances.loadCats([box["category_id"]])
        assert category["name"] == "circle" if is_original else category["name"] != "circle"
