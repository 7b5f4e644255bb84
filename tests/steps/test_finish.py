"""Files and rows of finished edits: the background stays, every edit has a row."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config.sample_settings import resolved_settings
from pipeline.images.composite import (
    CUT_NOTE,
    composite,
)
from pipeline.records.part import Edit, Part, Sample
from pipeline.records.rows import STAGED_SCHEMA
from tests.committing import SIZE, invert, make_config, make_context, prepared, table_of
from tests.samples import encode, pixels


def make_prepared(**changes: Any) -> Sample:
    encoded = encode(pixels(1, 48, 64))
    settings = {
        "key": "dir/k",
        "caption": "a dog",
        "suffix": "png",
        "encoded": encoded,
        "source_sha256": hashlib.sha256(encoded).hexdigest(),
        "edits": [Edit(0, "a cat")],
    }
    return Sample(**(settings | changes))


def finished(
    sample: Sample, context: dict[str, Any] | None = None, **sections: Any
) -> list[dict[str, Any]]:
    """The staged rows of one image whose edits invert it."""
    config = make_config(**sections)
    part = invert(prepared(Part("s", 0, 1, [sample]), config))
    return table_of(part, make_context(config, **(context or {}))).to_pylist()


def members(row: dict[str, Any]) -> dict[str, bytes]:
    return {member["suffix"]: member["data"] for member in row["members"]}


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_scores_by_hand() -> None:
    """The change inside is its RMS; an empty mask has none, and leaves the image as it was."""
    before = np.zeros((4, 4, 3), np.uint8)
    edited = np.full((4, 4, 3), 51, np.uint8)
    mask = np.zeros((4, 4), np.float32)
    mask[1:3, :2] = 1
    made = composite(before, edited, mask, feather=0)
    assert made.edit_rms == pytest.approx(0.2)
    assert (made.area, made.box) == (0.25, [0, 1, 2, 3])
    nothing = composite(before, edited, np.zeros((4, 4), np.float32), feather=0)
    assert (nothing.edit_rms, nothing.box, nothing.area) == (None, None, 0)
    assert np.array_equal(nothing.pixels, before)


def test_background_scores_are_of_the_decoded_image() -> None:
    """Before the composite, which would make every background equal, and before any lossy file."""
    sample = make_prepared()
    (row,) = finished(sample, output={"format": "jpg"})
    assert sample.image is not None
    outside = np.ones((SIZE, SIZE), bool)
    outside[8:24, 8:] = False
    difference = sample.image[outside].astype(float) - (255 - sample.image)[outside]
    assert row["score_background_mse"] == pytest.approx(np.mean((difference / 255) ** 2))
    assert row["score_background_ssim"] < 0
    assert row["score_background_mse_frame"] == pytest.approx(
        row["score_background_mse"] * outside.mean()
    )
    record = json.loads(members(row)["json"])
    scores = json.loads(record["scores"])
    assert scores["score_background_mse"] == pytest.approx(row["score_background_mse"])
    assert "score_lpips" not in record


def test_an_edited_row_and_its_members_agree() -> None:
    """Hashes, sizes, mask and texts of the row are those of the files."""
    sample = make_prepared(metadata={"label": [1, "ü"]}, extras={"cls": b"7", "json2": b"x"})
    (row,) = finished(sample)
    files = members(row)
    assert sorted(files) == ["cls", "json", "json2", "mask.png", "png", "txt"]
    assert list(files) == sorted(files)
    assert row["status"] == "edited"
    assert row["output_key"] == "dir/k_0"
    assert row["image_sha256"] == hashlib.sha256(files["png"]).hexdigest()
    assert (row["width"], row["height"]) == (SIZE, SIZE)
    assert decoded(files["png"]).shape == (SIZE, SIZE, 3)
    mask = decoded(files["mask.png"])
    assert row["mask_area"] == pytest.approx((mask == 255).mean())
    assert row["mask_box"] == [8, 8, 32, 24]
    assert (mask[8:24, 8:] == 255).all()
    assert files["txt"] == b"a cat"
    record = json.loads(files["json"])
    assert json.loads(record["source"]) == {"label": [1, "ü"]}
    assert json.loads(record["settings"]) == json.loads(row["settings"]) == {"encode_ratio": 0.8}
    scores = json.loads(record["scores"])
    known = {name for name in row if name.startswith("score_") and row[name] is not None}
    assert scores.keys() == known > {"score_edit_rms", "score_background_mse"}
    assert all(scores[name] == pytest.approx(row[name]) for name in scores)
    assert record["notes"] == "; ".join(row["notes"])
    for name in set(record) - {"source", "settings", "scores", "notes"}:
        wanted = pytest.approx(row[name]) if isinstance(row[name], float) else row[name]
        assert record[name] == wanted, name


def test_the_background_in_a_lossless_file_is_the_prepared_image() -> None:
    """From the file's bytes: not a pixel outside the mask differs."""
    sample = make_prepared()
    (row,) = finished(sample)
    image, mask = decoded(members(row)["png"]), decoded(members(row)["mask.png"])
    assert sample.image is not None
    assert np.array_equal(image[mask == 0], sample.image[mask == 0])
    assert not np.array_equal(image, sample.image)


def test_without_the_composite_the_decoded_image_is_written() -> None:
    """composite.enabled: false keeps what the network made, everywhere."""
    sample = make_prepared()
    (row,) = finished(sample, method={"composite": {"enabled": False}})
    assert sample.image is not None
    assert np.array_equal(decoded(members(row)["png"]), 255 - sample.image)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(48, 64), (90, 33), (20, 20)])
def test_at_the_sources_size_other_pixels_stay(resize: str, shape: tuple[int, int]) -> None:
    """output.resolution: source keeps the original's size and every pixel outside the mask."""
    image = pixels(3, *shape)
    sample = make_prepared(encoded=encode(image))
    (row,) = finished(sample, output={"resolution": "source"}, model={"resize": resize})
    made, mask = decoded(members(row)["png"]), decoded(members(row)["mask.png"])
    assert made.shape == image.shape
    assert (row["width"], row["height"]) == shape[::-1]
    assert mask.any()
    assert np.array_equal(made[mask == 0], image[mask == 0])
    assert not np.array_equal(made[mask > 0], image[mask > 0])
    assert row["mask_area"] == pytest.approx((mask > 0).mean(), abs=1e-6)


def at_border(part: Part) -> Part:
    """As ``invert``, with the mask at the left side of the model's image."""
    for edit in invert(part).edits:
        assert edit.mask is not None
        edit.mask = np.roll(edit.mask, -1, axis=1)
    return part


@pytest.mark.parametrize(
    ("shape", "resize", "resolution", "is_cut"),
    [
        ((48, 64), "crop", "source", True),
        ((64, 48), "crop", "source", False),  # cut above and below
        ((64, 64), "crop", "source", False),
        ((48, 64), "pad", "source", False),
        ((48, 64), "stretch", "source", False),
        ((48, 64), "crop", "model", False),  # the crop is the image
    ],
)
def test_a_mask_that_meets_the_crops_border_is_noted(
    shape: tuple[int, int], resize: str, resolution: str, is_cut: bool
) -> None:
    """There the object goes on in the original, and is not edited."""
    config = make_config(output={"resolution": resolution}, model={"resize": resize})
    sample = make_prepared(encoded=encode(pixels(1, *shape)))
    part = at_border(prepared(Part("s", 0, 1, [sample]), config))
    (row,) = table_of(part, make_context(config)).to_pylist()
    assert row["status"] == "edited"
    assert row["notes"] == ([CUT_NOTE] if is_cut else [])
    assert json.loads(members(row)["json"])["notes"] == "; ".join(row["notes"])


def test_an_unchanged_edit_has_a_row_and_no_member() -> None:
    """Equal texts: nothing to write, and a mask area of 0."""
    (row,) = finished(make_prepared(edits=[Edit(0, "a dog")]))
    assert (row["status"], row["stage"], row["members"]) == ("unchanged", "mask", [])
    assert (row["output_key"], row["mask_area"], row["image_sha256"]) == (None, 0.0, None)


def test_every_edit_has_a_row_whatever_became_of_it() -> None:
    """Edited, failed before, and forgotten by a stage."""
    sample = make_prepared(edits=[Edit(0, "a cat"), Edit(1, "x"), Edit(2, "y")])
    sample.edits[1].fail("read", "EmptyText", "the edit text is empty")
    config = make_config()
    part = invert(prepared(Part("s", 0, 1, [sample]), config))
    sample.edits[2].image = None
    table = table_of(part, make_context(config))
    assert table.schema.equals(STAGED_SCHEMA)
    rows = table.to_pylist()
    assert [row["status"] for row in rows] == ["edited", "failed", "failed"]
    assert [row["error"] for row in rows] == [None, "EmptyText", "Internal"]
    assert [bool(row["members"]) for row in rows] == [True, False, False]


def test_what_fails_here_fails_that_edit_alone() -> None:
    """An image of the wrong shape is a failed row beside its edited neighbour."""
    sample = make_prepared(edits=[Edit(0, "a"), Edit(1, "b")])
    config = make_config()
    part = invert(prepared(Part("s", 0, 1, [sample]), config))
    sample.edits[0].image = np.zeros((3, 5, 3), np.uint8)
    rows = table_of(part, make_context(config)).to_pylist()
    assert [row["status"] for row in rows] == ["failed", "edited"]
    assert rows[0]["stage"] == "finish"
    assert rows[0]["members"] == []
    assert rows[0]["image_sha256"] is None


def test_a_row_that_failed_here_tells_of_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last file cannot be written, the row has no hash, size or score of the others."""

    def full(values: np.ndarray) -> bytes:
        raise OSError("no space")

    monkeypatch.setattr("pipeline.steps.finish.encode_gray", full)
    (row,) = finished(make_prepared())
    assert (row["status"], row["error"], row["members"]) == ("failed", "OSError", [])
    told = ("image_sha256", "width", "height", "mask_box", "output_key")
    scores = [name for name in row if name.startswith("score_")]
    assert {row[name] for name in (*told, *scores)} == {None}


def test_settings_that_the_method_refuses_fail_the_row() -> None:
    """The row is still written, with the run's settings and seed."""

    def strict(sample: Sample) -> dict[str, Any]:
        if sample.settings:
            raise ValueError("encode_ratio=7 is not in (0, 1]")
        return {"encode_ratio": 0.8}

    sample = make_prepared(settings={"encode_ratio": 7, "seed": "x"})
    (row,) = finished(sample, {"settings_for": strict})
    assert (row["status"], row["error"], row["seed"]) == ("failed", "BadSettings", 0)
    assert json.loads(row["settings"]) == {"encode_ratio": 0.8}
    assert finished(make_prepared(settings={"seed": 9}))[0]["seed"] == 9


@pytest.mark.parametrize(
    ("form", "extra"), [("jpg", {}), ("png", {}), ("webp", {}), ("webp", {"lossless": True})]
)
def test_files_are_the_same_bytes_each_time(form: str, extra: dict[str, Any]) -> None:
    """Twice the same part, twice the same table, in the configured format."""
    tables = []
    for _ in range(2):
        config = make_config(output={"format": form, **extra})
        part = invert(prepared(Part("s", 0, 1, [make_prepared()]), config))
        tables.append(table_of(part, make_context(config)))
    assert tables[0].equals(tables[1])
    image = members(tables[0].to_pylist()[0])[form]
    assert Image.open(io.BytesIO(image)).format == {"jpg": "JPEG"}.get(form, form.upper())


def test_jpegs_keep_the_colors_resolution_at_high_quality() -> None:
    """4:4:4 from quality 90 on, 4:2:0 below."""
    from PIL import JpegImagePlugin

    sampling = {}
    for quality in (89, 90):
        (row,) = finished(make_prepared(), output={"format": "jpg", "quality": quality})
        sample = Image.open(io.BytesIO(members(row)["jpg"]))
        sampling[quality] = JpegImagePlugin.get_sampling(sample)
    assert sampling == {89: 2, 90: 0}


def test_the_difference_map_is_written_where_asked_for() -> None:
    """8-bit grey on the latent grid, only with keep_difference."""
    (row,) = finished(make_prepared(), {"keep_difference": True})
    assert decoded(members(row)["difference.png"]).tolist()[3][3] == 255
    (row,) = finished(make_prepared())
    assert "difference.png" not in members(row)


def test_a_sample_with_two_images_keeps_the_second() -> None:
    """A member whose name the edit needs goes on as source.<suffix>."""
    (row,) = finished(make_prepared(extras={"png": b"other", "_x": b"1", "a\\b": b"2"}))
    files = members(row)
    assert files["source.png"] == b"other"
    assert files["source._x"] == b"1"
    assert files["a%5Cb"] == b"2"


def test_every_image_suffix_is_the_edits() -> None:
    """A loader takes "jpg;png;webp": it must not find the source's other image with this text."""
    sample = make_prepared(extras={"png": b"other", "jpeg": b"other", "mask.png": b"other"})
    (row,) = finished(sample, output={"format": "webp"})
    assert sorted(members(row)) == [
        *("json", "mask.png", "source.jpeg", "source.mask.png", "source.png", "txt", "webp"),
    ]


def test_half_a_surrogate_in_the_json_is_still_json() -> None:
    """What Python's parser lets in goes out as the same escape."""
    (row,) = finished(make_prepared(metadata={"x": "\ud800"}))
    source = json.loads(members(row)["json"])["source"]
    assert json.loads(source) == {"x": "\ud800"}


def test_half_a_surrogate_in_the_samples_settings_fails_its_row_alone() -> None:
    """The row shows what was asked for, as the same escape."""
    sample = make_prepared(settings={"encode_ratio": "\ud800"})
    sample.fail("mask", "ValueError", "out of range")
    settings_for = partial(resolved_settings, make_config().method)
    (row,) = finished(sample, {"settings_for": settings_for})
    assert json.loads(row["settings"])["encode_ratio"] == "\ud800"


def test_the_message_is_one_line_of_unicode() -> None:
    """Whatever an exception says can be stored."""
    sample = make_prepared()
    sample.fail("mask", "Odd", "two\n lines \ud800")
    row = table_of(Part("s", 0, 1, [sample]), make_context(make_config())).to_pylist()[0]
    assert row["message"] == "two lines \\ud800"
    assert isinstance(table_of(Part("s", 0, 1), make_context(make_config())), pa.Table)
    assert replace(sample, key="x").key == "x"


def test_several_edits_at_once_are_those_of_one_at_a_time() -> None:
    """Rows in their order and members to the last byte, with one edit that fails here."""
    config = make_config()
    tables = []
    for threads in (1, 4):
        samples = [make_prepared(key=key, edits=[Edit(0, "a cat"), Edit(1, "x")]) for key in "abc"]
        part = invert(prepared(Part("s", 0, 1, samples), config))
        part.samples[1].edits[0].image = np.zeros((1, 1, 3), np.uint8)
        tables.append(table_of(part, make_context(config), threads=threads).to_pylist())
    assert [row["status"] for row in tables[0]].count("failed") == 1
    assert tables[0] == tables[1]
    assert [(row["key"], row["edit_index"]) for row in tables[1]] == [
        (key, index) for key in "abc" for index in (0, 1)
    ]
