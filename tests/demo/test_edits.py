"""Edits of the demo world, and the shards that contain them."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image, UnidentifiedImageError

from pipeline.demo.captions import PHRASINGS, caption
from pipeline.demo.dataset import write_demo_input, write_demo_shards
from pipeline.demo.edits import FAINT, KINDS, mask_on_grid, sample_edit, true_mask
from pipeline.demo.measures import psnr
from pipeline.demo.world import HIDDEN_COLORS, paint, split_of
from tests.demo.coverage import coverage

EDITS = [sample_edit(0, "heldout", index) for index in range(100)]


def by_kind(kind: str) -> list:
    """At least one: a loop over none would assert nothing."""
    found = [edit for edit in EDITS if edit.kind == kind]
    assert found, kind
    return found


def test_kinds_come_in_turn_and_from_heldout_scenes() -> None:
    """Kinds are used in turn, and scenes are always from the held-out split."""
    assert [edit.kind for edit in EDITS] == [KINDS[index % len(KINDS)] for index in range(100)]
    assert {split_of(edit.source) for edit in EDITS} == {"heldout"}


def test_texts_describe_source_and_target_in_one_phrasing() -> None:
    """Caption and edit text are the captions of the two scenes in the same phrasing."""
    for edit in EDITS:
        pairs = {
            (caption(edit.source, phrasing), caption(edit.target, phrasing))
            for phrasing in range(len(PHRASINGS))
        }
        assert (edit.caption, edit.edit_text) in pairs
        assert edit.caption != edit.edit_text


def test_target_scenes_follow_the_rules_of_the_world() -> None:
    """After an edit every object is visible, and no two objects share a color or shape."""
    for edit in EDITS:
        colors = [item.color for item in edit.target.objects]
        shapes = [item.shape for item in edit.target.objects]
        assert not set(colors) & HIDDEN_COLORS[edit.target.background]
        assert len(set(colors)) == len(set(shapes)) == len(colors)


def test_color_edit_changes_exactly_the_object() -> None:
    """The true mask of a color edit covers the object and nothing outside it."""
    for edit in by_kind("color"):
        mask, cover = true_mask(edit), coverage(edit.source.objects[edit.changed[0]])
        assert mask[cover == 1].mean() > 0.99
        assert not mask[cover == 0].any()


def test_shape_edit_keeps_color_and_place() -> None:
    """Only the outline changes, by enough to be visible on the latent grid."""
    for edit in by_kind("shape"):
        before, after = (scene.objects[edit.changed[0]] for scene in (edit.source, edit.target))
        assert (before.color, before.x, before.y) == (after.color, after.x, after.y)
        assert mask_on_grid(true_mask(edit)).sum() >= 8


def test_true_image_equals_the_input_outside_the_faint_mask() -> None:
    """Outside the faint mask the PSNR to the input is above 50 dB; outside the visible one not."""
    for kind in ("color", "shape", "object"):
        for edit in by_kind(kind):
            visible, faint = true_mask(edit), true_mask(edit, differs=FAINT)
            assert not (visible & ~faint).any()
            assert psnr(paint(edit.target), paint(edit.source), ~faint) > 50
    shaped = [psnr(paint(e.target), paint(e.source), ~true_mask(e)) for e in by_kind("shape")]
    assert np.mean(shaped) < 43


def test_background_edit_keeps_the_objects() -> None:
    """The true masks of background edits do not include the objects."""
    for edit in by_kind("background"):
        assert edit.background_changed
        assert edit.changed == ()
        for item in edit.source.objects:
            inside = coverage(item) == 1
            assert true_mask(edit)[inside].mean() < 0.05


def test_kind_several_changes_object_and_background() -> None:
    """The kind "several" changes one object and the background."""
    assert all(edit.background_changed and len(edit.changed) == 1 for edit in by_kind("several"))


def test_cell_is_true_from_a_quarter_of_its_pixels_on() -> None:
    """Solved by hand: a cell with 16 of 64 pixels is true, one with 15 is not."""
    mask = np.zeros((128, 128), bool)
    mask[:2, :8] = True
    mask[8:10, :8] = True
    mask[9, 7] = False
    cells = mask_on_grid(mask)
    assert cells[0, 0]
    assert cells.sum() == 1


def test_unknown_kind_is_named() -> None:
    """The error lists the allowed kinds."""
    with pytest.raises(ValueError, match="'style', allowed are color, shape"):
        sample_edit(0, "heldout", 0, kinds=("style",))


def test_shards_are_byte_stable(tmp_path: Path) -> None:
    """Equal arguments give equal bytes; another seed gives other bytes."""
    digests = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        paths = write_demo_shards(tmp_path / folder, 2, 3, seed=seed)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]
    assert set(digests[0]).isdisjoint(digests[2])


def test_shards_have_the_input_format(tmp_path: Path) -> None:
    """WebDataset reads image, texts, truth and facts of every edit; PNGs are exact."""
    paths = write_demo_shards(tmp_path, 2, 5, seed=0)
    samples = [s for path in paths for s in webdataset.WebDataset(str(path), shardshuffle=False)]
    assert [sample["__key__"] for sample in samples] == [f"{number:08d}" for number in range(10)]
    for number, sample in enumerate(samples):
        edit = sample_edit(0, "heldout", number)
        assert sample["txt"].decode() == edit.caption
        assert sample["edit.txt"].decode() == edit.edit_text
        assert json.loads(sample["json"])["kind"] == edit.kind
        assert (
            np.asarray(Image.open(io.BytesIO(sample["target.png"]))) == paint(edit.target)
        ).all()
        truth = np.asarray(Image.open(io.BytesIO(sample["truth.png"])))
        assert (truth == true_mask(edit) * np.uint8(255)).all()
        assert Image.open(io.BytesIO(sample["jpg"])).size == (128, 128)


@pytest.fixture(scope="module")
def demo_input(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The samples of the demo's input by key, and the deliberately broken ones by kind."""
    folder = tmp_path_factory.mktemp("demo")
    paths = write_demo_input(folder)
    samples = [s for path in paths for s in webdataset.WebDataset(str(path), shardshuffle=False)]
    by_key = {sample["__key__"]: sample for sample in samples}
    trouble = json.loads((folder / "trouble.json").read_text())
    return {"samples": by_key, "trouble": {name: by_key[key] for key, name in trouble.items()}}


def test_demo_input_has_256_edits(demo_input: dict[str, dict]) -> None:
    """The four shards together have 256 edit texts."""
    texts = [sample["edit.txt"].decode().splitlines() for sample in demo_input["samples"].values()]
    assert sum(len(lines) for lines in texts) == 256


def test_difficult_images_match_their_kind(demo_input: dict[str, dict]) -> None:
    """Each broken or unusual image has the property that its kind names."""
    trouble = demo_input["trouble"]
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(trouble["cut_short"]["jpg"])).load()
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(trouble["not_a_picture"]["jpg"]))
    assert Image.open(io.BytesIO(trouble["turned_by_exif"]["jpg"])).getexif()[0x0112] == 6
    assert Image.open(io.BytesIO(trouble["cmyk"]["jpg"])).mode == "CMYK"
    assert Image.open(io.BytesIO(trouble["with_alpha"]["png"])).mode == "RGBA"
    assert Image.open(io.BytesIO(trouble["webp"]["webp"])).format == "WEBP"


def test_difficult_texts_match_their_kind(demo_input: dict[str, dict]) -> None:
    """A missing caption, equal texts, texts that differ in case only, four texts."""
    trouble = demo_input["trouble"]
    assert "txt" not in trouble["without_caption"]
    assert trouble["equal_texts"]["txt"] == trouble["equal_texts"]["edit.txt"]
    case = trouble["equal_but_for_case"]
    assert case["txt"] != case["edit.txt"]
    assert case["txt"].lower() == case["edit.txt"].lower()
    assert len(set(trouble["four_edit_texts"]["edit.txt"].decode().splitlines())) == 4


def test_image_turned_by_exif_is_upright_after_transposing(demo_input: dict[str, dict]) -> None:
    """Applying the orientation gives the scene's image, up to JPEG's loss."""
    from PIL import ImageOps

    sample = demo_input["trouble"]["turned_by_exif"]
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(sample["jpg"])))
    edit = sample_edit(2210, "heldout", int(sample["__key__"]))
    assert np.abs(np.asarray(upright).astype(int) - paint(edit.source)).mean() < 4
