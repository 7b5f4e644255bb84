"""Edits from Python: the bytes of a run, lists, what a notebook shows, and bad arguments."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.load import load_config
from pipeline.demo.captions import caption
from pipeline.demo.world import Scene, SceneObject, paint
from pipeline.editor import Editor, EditResult
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import make_plan
from pipeline.records.rows import rows_of
from pipeline.storage.archive import read_members
from tests.samples import encode, write_shard

QUICK = ["method.steps=4", "method.mask.num_noises=2", "stages.decode.threads=1"]
COLORS = ("red", "green")


def scene(color: str) -> Scene:
    return Scene("the sea", (0.2, 0.4, 0.6), (SceneObject("circle", color, 0.5, 0.5, 0.2),))


def image(color: str) -> np.ndarray:
    return paint(scene(color))


def texts(color: str) -> list[str]:
    return [caption(scene(color)).replace("circle", word) for word in ("square", "star")]


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor("bundled", QUICK)


def test_results_are_what_a_run_writes(tmp_path: Path, editor: Editor) -> None:
    """The files and the rows of two images with two edits each, byte for byte."""
    wide = np.concatenate([image("red")] * 2, axis=1)
    files = {"a": encode(image("green")), "b.c": encode(wide), "bad": b"no image"}
    captions = [caption(scene(color)) for color in ("green", "red", "red")]
    edits = [texts("green"), texts("red"), texts("red")]
    keys = [key.replace(".", "%2E") for key in files]
    samples = zip(keys, files.values(), captions, edits, strict=True)
    write_shard(
        tmp_path / "in/7.tar",
        [
            {"__key__": key, "png": data, "txt": text, "edit.txt": "\n".join(own)}
            for key, data, text, own in samples
        ],
    )
    places = [f"input.shards={tmp_path}/in/*.tar", f"output.path={tmp_path}/out"]
    run_loop(make_plan(load_config("demo", [*places, *QUICK]), "cpu"))
    found = editor.edit(list(files.values()), captions, edits, key=keys, shard="7")
    results: list[EditResult] = [one for of_image in found for one in of_image]
    table = pq.read_table(tmp_path / "out/7.parquet")
    assert [result.row for result in results] == rows_of(table)
    written: dict[str, dict[str, bytes]] = {}
    for name, data in read_members((tmp_path / "out/7.tar").read_bytes())[0]:
        key, _, suffix = name.partition(".")
        written.setdefault(key, {})[suffix] = data
    assert len(written) >= 3
    assert written == {
        str(result.row.output_key): result.members for result in results if result.members
    }
    assert [result.row.status for result in results[4:]] == ["failed", "failed"]


def test_one_image_has_image_mask_and_row(editor: Editor) -> None:
    """Pixels outside of the mask are those of before, up to JPEG; the same call repeats itself."""
    result = editor.edit(Image.fromarray(image("red")), caption(scene("red")), texts("red")[0])
    assert result.row.status == "edited"
    assert result.image is not None
    assert result.mask is not None
    assert (result.image.mode, result.mask.mode) == ("RGB", "L")
    assert result.image.size == result.mask.size == (result.row.width, result.row.height)
    assert Image.open(io.BytesIO(result.members["jpg"])).size == result.image.size
    again = editor.edit(image("red"), caption(scene("red")), texts("red"))
    assert again[0].row.key == result.row.key
    assert len(again) == 2


def test_notebook_shows_before_mask_and_after(editor: Editor) -> None:
    """Three images inline and both texts, escaped; an edit that failed says why."""
    shown = editor.edit(image("red"), caption(scene("red")), texts("red")[0])._repr_html_()
    assert shown.count('src="data:image/png;base64,') == 3
    assert texts("red")[0] in shown
    failed = editor.edit(b"<no image>", "a <b>", "a c")
    shown = failed._repr_html_()
    assert "<img" not in shown
    assert "NotAnImage" in shown
    kept = editor.edit(image("red"), "a <b>", "a <b>")._repr_html_()
    assert "a &lt;b&gt;" in kept
    assert "unchanged: mask" in kept


def test_supplied_mask_is_taken(editor: Editor) -> None:
    """White is edited, as of a ``key.mask.png``."""
    mask = np.zeros(image("red").shape[:2], np.uint8)
    mask[8:24, 8:40] = 255
    result = editor.edit(image("red"), caption(scene("red")), texts("red")[0], mask=mask)
    assert result.row.mask_box == [8, 8, 40, 24]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([b"x"], "a", ["b"]), "so caption must be a list of 1"),
        (([b"x"], ["a"], ["b", "c"]), "so edit_text must be a list of 1"),
        ((b"x", "a", []), "at least one edit text"),
        ((b"x", "a", "b\nc"), "an edit text is one line"),
        ((7, "a", "b"), "not int"),
        ((np.zeros((4, 4, 3)), "a", "b"), r"uint8, not \(4, 4, 3\) float64"),
    ],
)
def test_arguments_that_do_not_go_together(editor: Editor, arguments: tuple, message: str) -> None:
    """Each names what is wrong."""
    with pytest.raises(ValueError, match=message):
        editor.edit(*arguments)
