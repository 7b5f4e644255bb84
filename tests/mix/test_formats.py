"""What a mix writes in each format is read back by the libraries that train on it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from jobs.cli import main
from pipeline.mix.mix import run_mix
from pipeline.mix.plan import make_mix_plan
from pipeline.mix.survey import MixError
from pipeline.mix.verify import verify_mix
from pipeline.steps.marker import read_marker
from pipeline.steps.publish import to_parquet
from pipeline.storage.store import Store
from tests.committing import SIZE, contents, make_config, run
from tests.mix.boxed import (
    FORMATS,
    HEIGHT,
    NAMES,
    WIDTH,
    boxes,
    datasets_of,
    make_boxed,
    mix_of,
    mixed,
    tree_of,
)
from tests.mix.test_mix import settings
from tests.samples import raw_sample, write_shard

SPLITS = {"train": 0.4, "val-b": 0.6}


def test_parquet_is_read_by_datasets(
    boxed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are images, boxes and texts stand beside them, and the card names the splits."""
    mixed(boxed, "parquet", splits=SPLITS, edits_in=list(SPLITS))
    found = datasets_of(boxed / "parquet", monkeypatch, tmp_path)
    assert set(found) == {"train", "val_b"}
    rows = [row for split in found.values() for row in split]
    assert Counter(row["kind"] for row in rows) == {"original": 8, "edited": 14}
    for row in rows:
        assert row["image"].size == ((WIDTH, HEIGHT) if row["kind"] == "original" else (SIZE, SIZE))
        assert (row["mask"] is None) == (row["kind"] == "original")
        assert row["text"] == "a dog" if row["kind"] == "original" else row["text"] != "a dog"
        assert (row["objects"] is None) == (row["key"] == "plain")
    one = next(row for row in rows if row["objects"] and row["kind"] == "original")
    assert [box["bbox"] for box in one["objects"]] == [[8, 0, 24, 24], [40, 20, 10, 10]]
    assert [box["category"] for box in one["objects"]] == NAMES


def test_webdataset_is_read_by_datasets_and_webdataset(
    boxed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though edits have files that originals lack: the card names the columns."""
    mixed(boxed, "webdataset")
    found = datasets_of(boxed / "webdataset", monkeypatch, tmp_path)["train"]
    assert set(found.column_names) == {"__key__", "png", "txt"}
    assert len(found) == 22
    assert found[0]["png"].width in (WIDTH, SIZE)
    import webdataset

    tars = [str(path) for path in sorted((boxed / "webdataset/train").glob("*.tar"))]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil", only=["png"]))
    assert len(samples) == 22
    edits = [one for one in samples if "edited" in one["__key__"]]
    assert [one["png"].size for one in edits] == [(SIZE, SIZE)] * 14


def test_imagefolder_is_read_by_datasets(
    boxed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class folders, and captions in metadata.jsonl."""
    mixed(boxed, "imagefolder", labels={"dog": "dog", "cat": "cat"})
    found = datasets_of(boxed / "imagefolder", monkeypatch, tmp_path)["train"]
    assert Counter((row["kind"], row["label"]) for row in found) == {
        ("original", "5"): 6,  # a class of its own
        ("original", "dog"): 2,
        ("edited", "cat"): 8,
    }
    for row in found:
        assert row["text"] == ("a dog" if row["kind"] == "original" else "a cat")
    classes = {path.name for path in (boxed / "imagefolder/train").iterdir() if path.is_dir()}
    assert classes == {"5", "dog", "cat"}


def test_images_without_a_class_stand_in_no_class_folder(tmp_path: Path) -> None:
    """A trainer would take the folder for a class; keys and shards with slashes stay apart."""
    write_shard(tmp_path / "in/a/0.tar", [raw_sample("b", cls="5"), raw_sample("c/d", seed=1)])
    write_shard(tmp_path / "in/e/0.tar", [raw_sample("c/d", seed=2)])
    run(make_config(f"{tmp_path}/in"), Store(str(tmp_path / "out")))
    mixed(tmp_path, "imagefolder", input={"shards": f"{tmp_path}/in", "key_split": "suffix"})
    root = tmp_path / "imagefolder/train"
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"5"}
    lines = (root / "metadata.jsonl").read_text().splitlines()
    names = {json.loads(line)["file_name"] for line in lines}
    assert len(names) == 6
    assert all((root / name).is_file() for name in names)


def test_coco_is_read_by_pycocotools(boxed: Path) -> None:
    """Boxes of originals in their pixels, of edits in those of the edit; captions of all."""
    from pycocotools import coco, cocoeval

    mixed(boxed, "coco")
    root = boxed / "coco"
    found = coco.COCO(str(root / "annotations/instances_train.json"))
    assert len(found.imgs) == 6 + 12
    assert [one["name"] for one in found.loadCats(found.getCatIds())] == NAMES
    for image in found.loadImgs(found.getImgIds()):
        with Image.open(root / "train" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])
        own = found.loadAnns(found.getAnnIds(image["id"]))
        is_original = "original" in image["file_name"]
        expected = [[8, 0, 24, 24], [40, 20, 10, 10]] if is_original else CROPPED
        assert [box["bbox"] for box in own] == expected
    answers = [
        {name: box[name] for name in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for box in found.anns.values()
    ]
    evaluated = cocoeval.COCOeval(found, found.loadRes(answers), "bbox")
    evaluated.evaluate()
    evaluated.accumulate()
    evaluated.summarize()
    assert evaluated.stats[0] == 1
    captions = coco.COCO(str(root / "annotations/captions_train.json"))
    assert len(captions.imgs) == 22
    assert {one["caption"] for one in captions.anns.values()} == {"a dog", "a cat", "a fox"}


ORIGINAL: list[list[float]] = [[8, 0, 24, 24], [40, 20, 10, 10]]
# The square of 48 in the middle of 64 x 48 becomes 32 x 32: (x - 8) / 1.5, y / 1.5.
CROPPED: list[list[float]] = [[0, 0, 16, 16], [21.333, 13.333, 6.667, 6.667]]


def yolo_boxes(root: Path, split: str) -> dict[Path, list[tuple[str, list[float]]]]:
    """Class names and boxes in pixels of every image, as YOLO trainers read them."""
    tree = yaml.safe_load((root / "data.yaml").read_text())
    found = {}
    for path in sorted((root / tree[split]).rglob("*.png")):
        labels = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt")
        with Image.open(path) as opened:
            width, height = opened.size
        lines = []
        for line in labels.read_text().splitlines():
            number, *place = line.split()
            x, y, w, h = map(float, place)
            left, top = (x - w / 2) * width, (y - h / 2) * height
            lines.append((tree["names"][int(number)], [left, top, w * width, h * height]))
        found[path] = lines
    return found


def test_yolo_has_a_label_file_for_every_image(boxed: Path) -> None:
    """Images without boxes are left out and counted, and so are their edits."""
    manifest = mixed(boxed, "yolo")
    assert manifest["pictures"]["left_out"] == {"no boxes": 2}
    assert manifest["edits"]["left_out"]["no boxes"] == 2
    found = yolo_boxes(boxed / "yolo", "train")
    assert len(found) == 18
    assert yolo_boxes(boxed / "yolo", "val") == found  # trainers ask for a split val
    for path, lines in found.items():
        expected = ORIGINAL if "original" in path.name else CROPPED
        assert [name for name, _ in lines] == NAMES
        assert np.allclose([box for _, box in lines], expected, atol=1e-3)


def test_categories_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """The message names both names and what to do."""
    for number, names in enumerate((NAMES, ["fox", "cat"])):
        sample = raw_sample("k", seed=number, boxes__json=boxes([0, 0, 9, 9], names=names))
        write_shard(tmp_path / f"in/{number:02d}.tar", [sample])
    run(make_config(f"{tmp_path}/in/*.tar"), Store(str(tmp_path / "out")))
    plan = make_mix_plan(settings(tmp_path, "coco", **tree_of("coco")))
    with pytest.raises(MixError, match="the category 0 is 'fox' here and 'dog' in another image"):
        run_mix(plan)


def test_originals_name_the_categories_of_relabeled_edits(tmp_path: Path) -> None:
    """Their edits may say "hound" for a number that the originals call "dog"."""
    samples = []
    for number, name in enumerate(NAMES):
        tree = boxes([0, 0, 40, 40]) | {"categories": [{"id": number, "name": name}]}
        tree["annotations"][0]["category_id"] = number
        text = "a hound" if name == "cat" else "a big dog"
        samples.append(raw_sample(name, [text], caption=f"a {name}", seed=number, boxes__json=tree))
    write_shard(tmp_path / "in/00.tar", samples)
    labels = {"on_overlap": "relabel", "classes": {"hound": 0, "dog": 0, "cat": 1}}
    run(make_config(f"{tmp_path}/in/*.tar", labels=labels), Store(str(tmp_path / "out")))
    mixed(tmp_path, "coco")
    tree = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert [one["name"] for one in tree["categories"]] == NAMES
    assert Counter(one["category_id"] for one in tree["annotations"]) == {0: 3, 1: 1}


def test_a_class_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    """It would leave the folder of its split."""
    write_shard(tmp_path / "in/00.tar", [raw_sample("k", cls="../x")])
    run(make_config(f"{tmp_path}/in/*.tar"), Store(str(tmp_path / "out")))
    plan = make_mix_plan(settings(tmp_path, "tree", **tree_of("imagefolder")))
    with pytest.raises(MixError, match=r"the class '\.\./x' is no name of a folder"):
        run_mix(plan)


def first_image(store: Store) -> str:
    return next(name for name in store.list() if name.endswith(".png"))


DAMAGES: dict[str, list[tuple[Callable[[Store], object], str]]] = {
    "coco": [
        (lambda s: s.delete(first_image(s)), "cannot be read: FileNotFoundError"),
        (lambda s: s.put(first_image(s), b"x"), "has 1 bytes, its page says"),
        (lambda s: s.put("annotations/instances_train.json", b"{}"), "not what the shards say"),
        (lambda s: s.delete("_mix/pages/train/00.json"), "cannot be read: FileNotFoundError"),
        (lambda s: s.put("train/stray.png", b"x"), "train/stray.png: belongs to no mixed shard"),
    ],
    "imagefolder": [(lambda s: s.delete("train/metadata.jsonl"), "metadata.jsonl is missing")],
    "yolo": [(lambda s: s.put("data.yaml", b""), "data.yaml is missing or not what")],
    "parquet": [
        (lambda s: s.put("train/00.parquet", b"PAR1"), "has 4 bytes, the marker says"),
        (lambda s: s.delete("train/00.parquet"), "cannot be read: FileNotFoundError"),
    ],
}


@pytest.mark.parametrize(
    ("form", "damage", "line"),
    [(form, *damage) for form, damages in DAMAGES.items() for damage in damages],
)
def test_damage_is_found_and_mended(
    boxed: Path, tmp_path: Path, form: str, damage: Callable[[Store], object], line: str
) -> None:
    """The audit names it, and the same mix again writes the same bytes."""
    mix = mix_of(boxed, tmp_path / "mixed", format=form)
    run_mix(make_mix_plan(mix))
    store, whole = Store(f"{tmp_path}/mixed"), contents(tmp_path / "mixed")
    damage(store)
    problems = verify_mix(store).problems
    assert any(line in problem for problem in problems), problems
    run_mix(make_mix_plan(mix))
    store.delete("train/stray.png")
    assert contents(tmp_path / "mixed") == whole
    assert verify_mix(store).problems == []


@pytest.mark.parametrize("form", FORMATS)
def test_workers_change_no_byte(boxed: Path, tmp_path: Path, form: str) -> None:
    """Two mixes of the same outputs are equal."""
    for name, workers in (("a", 1), ("b", 3)):
        run_mix(make_mix_plan(mix_of(boxed, tmp_path / name, format=form, workers=workers)))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_card_says_where_the_images_are_from_and_stays_as_it_was_changed(
    boxed: Path, tmp_path: Path
) -> None:
    """Counts, sources, the model with its license, settings; a second mix does not write it."""
    mix = mix_of(boxed, tmp_path / "m", format="parquet")
    run_mix(make_mix_plan(mix))
    card = (tmp_path / "m/README.md").read_text()
    _, head, body = card.split("---\n", 2)
    tree = yaml.safe_load(head)
    assert tree["configs"][0]["data_files"] == [{"split": "train", "path": "train/**/*.parquet"}]
    assert tree["size_categories"] == ["n<1K"]
    assert "| train | 8 | 14 |" in body
    assert f"`{boxed}/in/*.tar`" in body
    assert "with the model `bundled` at `r1`; license of the model: apache-2.0" in body
    assert "format: parquet" in body
    (tmp_path / "m/README.md").write_text("mine")
    run_mix(make_mix_plan(mix))
    assert (tmp_path / "m/README.md").read_text() == "mine"


def test_boxes_of_an_older_output_are_not_taken_for_those_of_its_edits(tmp_path: Path) -> None:
    """Its tars have the boxes of the source beside the edit, and its rows no shares."""
    make_boxed(tmp_path, shards=1, images=1)
    path = tmp_path / "out/00.parquet"
    table = pq.read_table(path)
    store = Store(str(tmp_path / "out"))
    place = table.schema.get_field_index("boxes_covered")
    data = to_parquet(table.remove_column(place))
    marker = read_marker(store, "00")
    assert marker is not None
    marker.parquet_bytes = len(data)
    marker.parquet_sha256 = hashlib.sha256(data).hexdigest()
    store.put("00.parquet", data)
    store.put("00_stats.json", marker.to_json())
    manifest = mixed(tmp_path, "coco")
    assert manifest["splits"]["train"] | {"original": 2, "edited": 3} == manifest["splits"]["train"]
    tree = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert [image["file_name"] for image in tree["images"]] == ["00/d/k0%2E0_original.png"]


def test_coco_without_boxes_is_captions_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader of instances would take an empty file for images without objects."""
    make_boxed(tmp_path, shards=1, images=0)
    arguments = ["mix", f"{tmp_path}/coco", "--edited", f"{tmp_path}/out", "format=coco"]
    assert main(arguments) == 0
    assert os.listdir(tmp_path / "coco/annotations") == ["captions_train.json"]
    assert (
        "train: no image has boxes, so there is no annotations/instances" in capsys.readouterr().out
    )
    assert verify_mix(Store(str(tmp_path / "coco"))).problems == []
