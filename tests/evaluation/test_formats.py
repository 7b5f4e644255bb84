"""The benchmarks' files are read by their protocols, and errors name the file and the entry."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.input import Input
from pipeline.demo.edits import true_mask
from pipeline.evaluation import demo_world, imagenet, pie_bench, tedbench
from pipeline.evaluation.measure import Seen
from pipeline.evaluation.tasks import TRUTH, BenchmarkError, first_tasks, write_shards
from pipeline.steps.read import read_shard
from pipeline.storage.store import Store
from tests.samples import encode, pixels


def pie_entry(number: int, **changes: Any) -> dict[str, Any]:
    """An entry of PIE-Bench's mapping."""
    entry = {
        "image_path": f"1_change_object_80/{number}.jpg",
        "original_prompt": "a [dog] on grass",
        "editing_prompt": "a [cat] on grass",
        "editing_instruction": "turn the dog into a cat",
        "editing_type_id": "1",
        "blended_word": "dog cat",
        "mask": [512 * 100 + 50, 200],
    }
    return entry | changes


def write_pie(folder: Path, entries: dict[str, dict[str, Any]]) -> Path:
    """A small PIE-Bench."""
    for number, entry in enumerate(entries.values()):
        path = folder / "annotation_images" / entry["image_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels(number, 512, 512), "jpg", quality=95))
    (folder / "mapping_file.json").write_text(json.dumps(entries))
    return folder


def test_run_length_mask_of_a_case_solved_by_hand() -> None:
    """Two pixels in an image of 4 x 4, and the outermost pixels, which are always set."""
    mask = pie_bench.decode_mask([5, 1, 10, 1], side=4)
    inside = mask[1:3, 1:3]
    assert inside.tolist() == [[True, False], [False, True]]
    mask[1:3, 1:3] = True
    assert mask.all()


def test_runs_continue_in_the_next_row_and_end_with_the_image() -> None:
    """Runs are over the image flattened by rows; they are cut at its end, as in the benchmark."""
    mask = pie_bench.decode_mask([6 * 2 - 3, 6], side=6)
    assert mask[1].tolist() == [True, False, False, True, True, True]
    assert mask[2].tolist() == [True, True, True, False, False, True]
    assert pie_bench.decode_mask([30, 99], side=6).sum() == pie_bench.decode_mask([], side=6).sum()


@pytest.mark.parametrize("lengths", [[1], [-1, 4], [36, 1], [3, -1], ["a", "b"], [0.5, 2]])
def test_invalid_mask_is_refused(lengths: list[Any]) -> None:
    """An odd count, negative numbers, runs outside the image and non-integers are refused."""
    with pytest.raises(ValueError, match="mask"):
        pie_bench.decode_mask(lengths, side=6)


def test_pie_bench_gives_tasks_without_brackets(tmp_path: Path) -> None:
    """Each entry becomes a task with prompts, type, image and mask, in the order of the keys."""
    write_pie(tmp_path, {"000000000001": pie_entry(1), "000000000000": pie_entry(0)})
    tasks = list(pie_bench.read_tasks(tmp_path))
    assert [task.key for task in tasks] == ["000000000000", "000000000001"]
    assert (tasks[0].caption, tasks[0].edit_text) == ("a dog on grass", "a cat on grass")
    assert tasks[0].group == "1 change object"
    truth = tasks[0].truth
    assert truth is not None
    assert truth.shape == (512, 512)
    assert truth.sum() == 200 + 4 * 511
    assert truth[100, 50:250].all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"editing_type_id": "12"}, "entry 'k': editing_type_id '12' is not 0 to 9"),
        ({"mask": [1, 2, 3]}, "entry 'k': the mask must be a list"),
        ({"image_path": "gone.jpg"}, "gone.jpg, which cannot be read"),
    ],
)
def test_pie_bench_says_which_entry_is_wrong(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """The error names the entry's key and what is wrong."""
    write_pie(tmp_path, {"k": pie_entry(0)})
    (tmp_path / "mapping_file.json").write_text(json.dumps({"k": pie_entry(0, **changes)}))
    with pytest.raises(BenchmarkError, match=words):
        list(pie_bench.read_tasks(tmp_path))


def test_pie_bench_names_a_missing_field_or_file(tmp_path: Path) -> None:
    """An entry without a prompt, and a folder that does not exist, are errors."""
    entry = pie_entry(0)
    write_pie(tmp_path, {"k": entry})
    del entry["editing_prompt"]
    (tmp_path / "mapping_file.json").write_text(json.dumps({"k": entry}))
    with pytest.raises(BenchmarkError, match="entry 'k' has no 'editing_prompt'"):
        list(pie_bench.read_tasks(tmp_path))
    with pytest.raises(BenchmarkError, match="No such file"):
        list(pie_bench.read_tasks(tmp_path / "nowhere"))


def test_tedbench_finds_images_by_name(tmp_path: Path) -> None:
    """Images are found in subfolders; a missing caption is replaced and not used for masks."""
    (tmp_path / "originals").mkdir()
    (tmp_path / "originals/cat.jpg").write_bytes(encode(pixels(1), "jpg"))
    entries = [
        {"img_name": "cat.jpg", "target_text": "a cat that yawns"},
        {"img_name": "cat.jpg", "target_text": "a cat in a hat", "caption": "a cat"},
    ]
    (tmp_path / "input_list.json").write_text(json.dumps(entries))
    tasks = list(tedbench.read_tasks(tmp_path))
    assert [task.caption for task in tasks] == [tedbench.NO_CAPTION, "a cat"]
    assert tasks[1].edit_text == "a cat in a hat"
    assert tasks[0].key != tasks[1].key
    assert tedbench.OVERRIDES == ("method.mask.reference=empty",)
    (tmp_path / "input_list.json").write_text(json.dumps([{**entries[0], "img_name": "../x"}]))
    with pytest.raises(BenchmarkError, match="is not a file name"):
        list(tedbench.read_tasks(tmp_path))
    (tmp_path / "input_list.json").write_text(json.dumps([{**entries[0], "img_name": "dog.jpg"}]))
    with pytest.raises(BenchmarkError, match="0 such files"):
        list(tedbench.read_tasks(tmp_path))


QUERIES = """,path,source,source_id,target,target_id,is_test
3741,n01/a.JPEG,greyhound,171,Afghan hound,160,False
883,n01/a.JPEG,bullfrog,30,"salamander, spotted",28,True
"""


def test_imagenet_queries_are_split_into_dev_and_test(tmp_path: Path) -> None:
    """Keys are the queries' numbers, texts the class names, and facts the class numbers."""
    (tmp_path / "queries.csv").write_text(QUERIES)
    (tmp_path / "val/n01").mkdir(parents=True)
    (tmp_path / "val/n01/a.JPEG").write_bytes(encode(pixels(1), "jpg"))
    keys = {
        split: [task.key for task in imagenet.read_tasks(tmp_path, split)]
        for split in ("dev", "test", "all")
    }
    assert keys == {"dev": ["3741"], "test": ["883"], "all": ["3741", "883"]}
    (task,) = imagenet.read_tasks(tmp_path, "test")
    assert (task.caption, task.edit_text, task.suffix) == ("bullfrog", "salamander, spotted", "jpg")
    assert task.facts == {"source_id": "30", "target_id": "28"}
    (tmp_path / "queries.csv").write_text(QUERIES.replace("True", "yes"))
    with pytest.raises(BenchmarkError, match="line 3: is_test is 'yes'"):
        list(imagenet.read_tasks(tmp_path))
    (tmp_path / "queries.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BenchmarkError, match="no column path, source"):
        list(imagenet.read_tasks(tmp_path))


def test_tasks_become_samples_in_the_input_format(tmp_path: Path) -> None:
    """Samples have image, caption and edit text; the annotated region is only passed through."""
    write_pie(tmp_path / "pie", {f"{number:04d}": pie_entry(number) for number in range(3)})
    tasks = list(pie_bench.read_tasks(tmp_path / "pie"))
    (name,) = write_shards(tasks, Store(str(tmp_path)))
    images = read_shard((tmp_path / name).read_bytes(), Input(shards="in")).samples
    assert [image.key for image in images] == ["0000", "0001", "0002"]
    first = images[0]
    assert first.encoded == tasks[0].image
    assert (first.caption, first.edits[0].edit_text) == ("a dog on grass", "a cat on grass")
    assert first.encoded_mask is None
    assert first.metadata["group"] == "1 change object"
    truth = np.asarray(Image.open(io.BytesIO(first.extras[TRUTH])))
    assert tasks[0].truth is not None
    assert np.array_equal(truth == 255, tasks[0].truth)


def test_equal_shards_are_not_written_again(tmp_path: Path) -> None:
    """Existing equal tars keep their modification time; tars beyond the tasks are removed."""
    tasks = first_tasks(demo_world.read_tasks(), 66)
    home = Store(str(tmp_path))
    assert write_shards(tasks, home) == ["in/00000.tar", "in/00001.tar"]
    first, second = (tmp_path / f"in/{number:05d}.tar" for number in range(2))
    before = first.stat().st_mtime_ns
    assert len(write_shards(tasks, home)) == 2
    assert first.stat().st_mtime_ns == before
    assert write_shards(tasks[:2], home) == ["in/00000.tar"]
    assert not second.exists()
    assert first.stat().st_mtime_ns != before


def test_demo_tasks_take_kinds_in_turn_and_tell_their_edit() -> None:
    """From what a task says, a judge knows the very edit: the texts and the truth are its own."""
    kinds = ("several", "color", "background")
    tasks = list(itertools.islice(demo_world.read_tasks(kinds), 6))
    assert [task.group for task in tasks] == [*kinds, *kinds]
    for task in tasks:
        image = np.zeros((8, 8, 3), np.uint8)
        seen = Seen(task.facts, "", image, image, None, False, task.group)
        edit = demo_world.edit_of(seen)
        assert (edit.kind, edit.edit_text) == (task.group, task.edit_text)
        assert task.truth is not None
        assert np.array_equal(true_mask(edit), task.truth)


def test_demo_tasks_do_not_set_the_samples_seed() -> None:
    """The world's seed has its own name, because `seed` in key.json is a setting of the sample."""
    (task,) = itertools.islice(demo_world.read_tasks(), 1)
    assert task.facts == {"world_seed": demo_world.SEED, "number": 0}
    assert task.truth is not None
    assert task.truth.any()
