"""Class trees, COCO's annotations, YOLO's labels, and folders that are packed already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from pipeline.pack.found import PackError
from pipeline.pack.plan import make_pack_plan
from pipeline.pack.yolo import boxes_of
from tests.pack.packing import draw, pack, packing, samples_of
from tests.samples import encode, pixels, raw_sample, write_shard


def test_a_class_tree_gives_captions_and_numbers(tmp_path: Path) -> None:
    """Classes are numbered by name; files beside the folders are counted."""
    draw(tmp_path / "tree", ["dog/1.png", "dog/sub/2.jpg", "big_cat/1.png", "stray.png"])
    draw(tmp_path / "else", ["1.png"])
    (tmp_path / "tree/fox").symlink_to(tmp_path / "else")
    packed = pack(tmp_path / "out", tmp_path / "tree", template="one {class} here")
    samples = samples_of(tmp_path / "out")
    assert {key: (s["txt"], s["cls"]) for key, s in samples.items()} == {
        "big_cat/1": (b"one big cat here", b"0"),
        "dog/1": (b"one dog here", b"1"),
        "dog/sub/2": (b"one dog here", b"1"),
    }
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["big_cat", "dog"]
    assert packed.left_out.names == {
        "folders that are links; name them as sources to read them": ["fox"],
        "images outside of a class's folder": ["stray.png"],
    }


def coco(folder: Path) -> dict[str, Any]:
    """Writes COCO's two files and their images; returns the tree of the instances."""
    draw(folder / "val", ["1.jpg", "2.jpg", "3.jpg", "4.jpg"])
    images = [{"id": 10 + n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in (1, 2, 3)]
    boxes = [
        {"id": 1, "image_id": 12, "bbox": [1, 2, 3.5, 4], "category_id": 18, "iscrowd": 0},
        {"id": 2, "image_id": 12, "bbox": [5, 6, 7, 8], "category_id": 17, "area": 56},
        {"id": 3, "image_id": 11, "bbox": [0, 0, 9, 9], "category_id": 17},
        {"id": 4, "image_id": 99, "bbox": [0, 0, 9, 9], "category_id": 17},
    ]
    categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    instances = {"images": images, "annotations": boxes, "categories": categories}
    captions = [
        {"id": 7, "image_id": 11, "caption": " Two cats\n sleep. "},
        {"id": 8, "image_id": 11, "caption": "Cats."},
    ]
    (folder / "ann").mkdir()
    (folder / "ann/instances.json").write_text(json.dumps(instances))
    (folder / "ann/captions.json").write_text(
        json.dumps(
            {"images": [*images, {"id": 5, "file_name": "gone.jpg"}], "annotations": captions}
        )
    )
    return instances


def test_coco_gives_boxes_and_captions(tmp_path: Path) -> None:
    """Annotations as they are; without a caption of its own, an image takes the template's."""
    tree = coco(tmp_path)
    files = [tmp_path / "ann/instances.json", tmp_path / "ann/captions.json"]
    packed = pack(tmp_path / "out", *files, images=str(tmp_path / "val"))
    samples = samples_of(tmp_path / "out")
    assert {key: sample["txt"] for key, sample in samples.items()} == {
        "1": b"Two cats sleep.",
        "2": b"a photo of a dog and cat",
    }
    assert json.loads(samples["2"]["boxes.json"]) == {
        "width": 64,
        "height": 48,
        "annotations": tree["annotations"][:2],
        "categories": tree["categories"],
    }
    assert packed.left_out.counts == {
        "annotations of an image that the file does not list": 1,
        "captions without an image": 1,
        "further captions of an image that has one": 1,
        "images without a caption": 2,
    }


@pytest.mark.parametrize(
    ("tree", "error"),
    [
        ("{", "is no JSON"),
        ([], "is none of COCO's files"),
        ({"images": []}, "is none of COCO's files"),
        ({"images": [], "annotations": [], "categories": [{"id": "x"}]}, "each of the categories"),
        ({"images": [3], "annotations": [[], {"image_id": []}]}, "nothing is left to pack"),
    ],
)
def test_a_damaged_coco_file_is_refused(tree: Any, error: str, tmp_path: Path) -> None:
    draw(tmp_path, ["1.jpg"])
    (tmp_path / "i.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    with pytest.raises(PackError, match=error):
        make_pack_plan(packing(tmp_path / "out", [tmp_path / "i.json"], images=str(tmp_path)))


@pytest.mark.parametrize("listed", ["data.yaml", "classes.txt"])
def test_yolo_gives_boxes_in_pixels(listed: str, tmp_path: Path) -> None:
    """The images are 64 x 48; bad lines leave an image out."""
    root = tmp_path / "yolo"
    draw(root / "images/train", ["1.png", "2.png", "3.png", "4.png"])
    labels = root / "labels/train"
    labels.mkdir(parents=True)
    (labels / "1.txt").write_text("1 0.5 0.5 0.25 0.5\n0 0.25 0.5 0.5 1\n")
    (labels / "2.txt").write_text("7 0.5 0.5 0.25 0.5\n")
    (labels / "3.txt").write_text("1 0.5 nan 0.25 0.5\n")
    (labels / "9.txt").write_text("")
    text = {"data.yaml": "names: {0: cat, 1: dog}\n", "classes.txt": "cat\ndog\n"}[listed]
    (root / listed).write_text(text)
    packed = pack(tmp_path / "out", root)
    samples = samples_of(tmp_path / "out")
    assert list(samples) == ["images/train/1"]
    assert samples["images/train/1"]["txt"] == b"a photo of a dog and cat"
    assert json.loads(samples["images/train/1"]["boxes.json"]) == {
        "width": 64,
        "height": 48,
        "annotations": [
            {"bbox": [24, 12, 16, 24], "category_id": 1},
            {"bbox": [0, 0, 32, 48], "category_id": 0},
        ],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    assert packed.left_out.counts == {
        "images with a damaged label file": 2,
        "images without a caption": 1,
        "label files without an image": 1,
    }


def test_yolo_boxes_are_of_the_image_as_it_is_seen() -> None:
    """EXIF turns a photo of 64 x 48 pixels upright; its labels were drawn on the upright one."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    tree = boxes_of("0 0.5 0.5 0.5 0.5", ("cat",), encode(pixels(), "jpg", exif=exif))
    assert (tree["width"], tree["height"]) == (48, 64)
    assert tree["annotations"][0]["bbox"] == [12, 16, 24, 32]


def test_what_is_packed_already_is_used_as_it_is(tmp_path: Path) -> None:
    """img2dataset's output is said to be that; nothing is written."""
    write_shard(tmp_path / "in/00000.tar", [raw_sample("a")])
    for said in ("holds shards already", "as img2dataset writes them"):
        with pytest.raises(PackError, match=said) as caught:
            make_pack_plan(packing(tmp_path / "out", [tmp_path / "in"]))
        assert f"input.shards='{tmp_path}/in/*.tar'" in str(caught.value)
        (tmp_path / "in/00000_stats.json").write_text("{}")
        (tmp_path / "in/00000.parquet").write_bytes(b"")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ([], "no such folder, or it is empty"),
        (["1.txt"], r"no image ends in \.jpg, \.jpeg, .*; there is 1\.txt"),
        (["1.png", "2.png"], "there are 2 images, but no captions: add a table"),
    ],
)
def test_a_folder_without_images_or_captions_says_what_to_do(
    names: list[str], error: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_bytes(b"x")
    with pytest.raises(PackError, match=error):
        make_pack_plan(packing(tmp_path / "out", [tmp_path / "in"]))


def test_several_sources_have_keys_of_their_own(tmp_path: Path) -> None:
    """Equal names in two folders; other classes are refused, since a number means one class."""
    for name in "ab":
        draw(tmp_path / name, ["dog/1.png"])
    pack(tmp_path / "out", tmp_path / "a", tmp_path / "b")
    assert list(samples_of(tmp_path / "out")) == ["0/dog/1", "1/dog/1"]
    draw(tmp_path / "c", ["cat/1.png"])
    with pytest.raises(PackError, match="different classes"):
        make_pack_plan(packing(tmp_path / "two", [tmp_path / "a", tmp_path / "c"]))
    with pytest.raises(PackError, match="named twice"):
        make_pack_plan(packing(tmp_path / "two", [tmp_path / "a", tmp_path / "a"]))
