"""The report page without a browser: its counts, its contents and its limits."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.cli import main
from pipeline.report.gallery import image_shards
from pipeline.report.images import ShardImages
from pipeline.report.outputs import read_output, shards_to_read
from pipeline.report.page import REPORT_FILE, write_report
from pipeline.steps.marker import read_marker
from pipeline.storage.shards import InputShard
from pipeline.storage.store import Store
from tests.drawn_output import make_output, textured
from tests.fake_job import fake_plan, run_fake
from tests.samples import encode, raw_sample, shard_bytes, write_shard

HOSTILE = "</script><script>window.hacked = 1</script><!--<script>\u2028'\"&{{ 7 * 7 }}"


def data_of(store: Store) -> dict[str, Any]:
    """The data that the page's script reads."""
    page = store.get(REPORT_FILE).decode()
    found = re.search(r'<script type="application/json" id="rows">(.*?)</script>', page, re.S)
    assert found is not None
    tree: dict[str, Any] = json.loads(found[1])
    return tree


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """An output with two shards and forty edits."""
    return make_output(tmp_path_factory.mktemp("drawn"), 40, shard_edits=20, size=64)


def test_every_edit_has_a_row_and_its_images(drawn: Store) -> None:
    """Edited rows have before, after and mask; failed and unchanged ones only before."""
    written = write_report(drawn)
    assert (written.num_rows, written.num_with_images) == (40, 40)
    tree = data_of(drawn)
    statuses = tree["statuses"]
    for row in tree["rows"]:
        before, after, mask = row[-3:]
        edited = statuses[row[3]] == "edited"
        assert before is not None
        assert (after is not None) == edited == (mask is not None)
    images = {number for row in tree["rows"] for number in row[-3:-2]}
    assert len(images) == 10  # four edits share the image before


def test_an_output_without_any_edit_has_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so, and names the shards whose input could not be read."""
    no_sample = shard_bytes([{"README": b"x"}])
    for number, data in enumerate((shard_bytes([]), no_sample)):
        path = tmp_path / f"in/{number}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    plan = run_fake(fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out"))
    assert main(["report", f"{tmp_path}/out"]) == 0
    capsys.readouterr()
    page = plan.output.get(REPORT_FILE).decode()
    assert "There are no edits" in page
    marker = read_marker(plan.output, "1")
    assert marker is not None
    assert marker.problem is not None
    assert re.search(r"Shard <code>1</code>: \w+", page)
    assert data_of(plan.output)["rows"] == []


def test_an_output_whose_shards_cannot_be_read_has_a_page(tmp_path: Path) -> None:
    """No marker and no row is left; the page names every shard."""
    store = make_output(tmp_path, 20, shard_edits=10, size=32)
    for name in ("00000", "00001"):
        store.put(f"{name}_stats.json", b"{")
    write_report(store)
    page = store.get(REPORT_FILE).decode()
    assert "There are no edits" in page
    for name in ("00000", "00001"):
        assert f"Shard <code>{name}</code> cannot be read" in page


def test_every_numeric_column_is_a_score(drawn: Store, tmp_path: Path) -> None:
    """A column that this version does not know is shown, with the meaning in its metadata."""
    store = Store(str(tmp_path))
    for name, data in ((name, drawn.get(name)) for name in drawn.list()):
        store.put(name, data)
    for shard in ("00000", "00001"):
        table = pq.read_table(io.BytesIO(store.get(f"{shard}.parquet")))
        field = pa.field(
            "clip_directional", pa.float32(), metadata={"meaning": "agreement", "better": "lower"}
        )
        values = pa.array([None if n % 2 else n / 20 for n in range(20)], pa.float32())
        sink = io.BytesIO()
        pq.write_table(table.append_column(field, values), sink)
        store.put(f"{shard}.parquet", sink.getvalue())
    write_report(store)
    scores = data_of(store)["scores"]
    assert {"name": "clip_directional", "meaning": "agreement", "better": "lower"} in scores
    assert [score["name"] for score in scores] == [
        *("mask_area", "score_edit_rms", "score_background_psnr_db", "clip_directional"),
    ]
    page = store.get(REPORT_FILE).decode()
    assert "Histogram of clip_directional: 20 values from 0 to 0.9, median" in page


def test_markup_in_texts_is_escaped(tmp_path: Path) -> None:
    """Captions, edit texts, messages and reasons with markup stay text everywhere."""

    def change(row: dict[str, Any]) -> None:
        row |= {"caption": HOSTILE, "edit_text": HOSTILE}
        if row["status"] == "failed":
            row |= {"error": HOSTILE, "message": HOSTILE}

    store = make_output(tmp_path, 20, size=32, change=change)
    write_report(store)
    page = store.get(REPORT_FILE).decode()
    assert "window.hacked = 1</script>" not in page
    assert "<script>window.hacked" not in page
    assert page.count("<script") == page.count("</script>") == 3  # rows, images, ours
    row = data_of(store)["rows"][1]
    assert row[6] == row[7] == HOSTILE


def test_page_respects_its_size_limit_and_says_what_it_shows(tmp_path: Path) -> None:
    """With one megabyte for 300 edits there are fewer images, of all statuses, and it says so."""
    store = make_output(tmp_path, 300, shard_edits=100, size=192)
    written = write_report(store, overrides=["report.max_bytes=1000000"])
    assert written.size_bytes <= 1_000_000
    assert 30 < written.num_with_images < 300
    tree = data_of(store)
    shown = {tree["statuses"][row[3]] for row in tree["rows"] if row[-3] is not None}
    assert shown == {"edited", "unchanged", "failed"}
    page = store.get(REPORT_FILE).decode()
    assert f"{written.num_with_images} with images, from 3 of 3 shards" in page
    small = write_report(store, overrides=["report.max_edits=50"])
    assert 40 <= small.num_rows <= 50
    assert f"A sample of {small.num_rows} of 300 edits" in store.get(REPORT_FILE).decode()


def test_reading_is_bounded(tmp_path: Path) -> None:
    """Images are read from as many tars as ``read_bytes`` allows, and at least from one."""
    store = make_output(tmp_path, 60, shard_edits=10, size=48)
    markers = [read_marker(store, f"{number:05d}") for number in range(6)]
    first = markers[0]
    assert first is not None
    bytes_of_shard = first.tar_bytes + (tmp_path / "in/00000.tar").stat().st_size
    written = write_report(store, overrides=[f"report.read_bytes={int(2.2 * bytes_of_shard)}"])
    assert written.num_with_images == 20
    assert write_report(store, overrides=["report.read_bytes=0"]).num_with_images == 10
    page = store.get(REPORT_FILE).decode()
    assert "10 with images, from 1 of 6 shards" in page
    assert "Over all 60 edits" in page  # histograms do not need images


def test_large_shards_do_not_exceed_the_limit_of_bytes(tmp_path: Path) -> None:
    """With shards of unequal size the limit holds, unless a single shard exceeds it."""
    store = make_output(tmp_path, 60, shard_edits=10, size=16)
    found = read_output(store)
    sizes = dict(zip(sorted(found.markers), (100, 900, 100, 900, 100, 900), strict=True))
    for name, marker in found.markers.items():
        marker.tar_bytes = sizes[name]
    for bound in (150, 500, 1500, 2500):
        chosen = image_shards(found, {}, bound)
        assert chosen
        assert len(chosen) == 1 or sum(sizes[name] for name in chosen) <= bound


def test_rows_of_too_many_shards_are_sampled_with_every_kind_of_failure(tmp_path: Path) -> None:
    """The sample has evenly spaced shards, and one for each kind of failure they do not have."""

    def change(row: dict[str, Any]) -> None:
        if row["status"] == "failed":
            row["error"] = "Rare" if row["shard"] == "00007" else "Common"

    store = make_output(tmp_path, 200, shard_edits=20, size=16, change=change)
    markers = read_output(store).markers
    read = shards_to_read(markers, max_rows=60)
    assert len(read) == 4
    assert {"00000", "00007", "00009"} <= set(read)


def test_page_without_inputs_shows_after_only(tmp_path: Path) -> None:
    """If the input is missing or holds other images now, the page says so."""
    store = make_output(tmp_path, 40, shard_edits=20, size=32)
    (tmp_path / "in/00000.tar").unlink()
    image = encode(textured(99, 32), "jpg")
    other = [{"__key__": "sheep-000005", "jpg": image, "txt": "a sheep", "edit.txt": "an owl"}]
    (tmp_path / "in/00001.tar").write_bytes(shard_bytes(other))
    write_report(store)
    rows = data_of(store)["rows"]
    assert all(row[-3] is None for row in rows)
    assert any(row[-2] is not None for row in rows)
    page = store.get(REPORT_FILE).decode()
    assert "The input of 2 shards cannot be shown" in page
    assert "FileNotFoundError; the input holds other images now" in page


def test_before_is_prepared_if_the_output_is(tmp_path: Path) -> None:
    """The image before is cropped like the output's; with resolution source it is whole."""
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, :16] = (255, 0, 0)  # cropped away
    one = {"__key__": "a", "png": encode(wide), "txt": "a dog", "edit.txt": "a cat"}
    write_shard(tmp_path / "in/0.tar", [one])
    for resolution, shape in (("model", (32, 32)), ("source", (64, 32))):
        path = f"{tmp_path}/{resolution}"
        plan = run_fake(fake_plan(f"{tmp_path}/in/*.tar", path, output={"resolution": resolution}))
        found = read_output(plan.output)
        entry = InputShard(f"{tmp_path}/in/0.tar", "0", 0)
        reader = ShardImages(plan.output, found.config, {"0": entry}, side=256)
        shown = reader.read("0", found.rows.to_pylist())["a", 0]
        assert shown.before is not None
        image = Image.open(io.BytesIO(shown.before)).convert("RGB")
        assert image.size == shape
        red = np.asarray(image)[..., 0].max() > 128
        assert red == (resolution == "source")


def test_rejected_images_are_read_from_their_own_tar(tmp_path: Path) -> None:
    """A rejected edit shows its image, with the filter's name as the reason."""
    store = make_output(tmp_path, 8, size=32, filters=["edit_rms <= 0.2"])
    write_report(store)
    tree = data_of(store)
    rejected = [row for row in tree["rows"] if tree["statuses"][row[3]] == "rejected"]
    assert 0 < len(rejected) < 7
    assert all(None not in row[-3:] for row in rejected)
    assert tree["reasons"] == ["decode: CudaError", "filter: edit_rms <= 0.2"]
    page = store.get(REPORT_FILE).decode()
    assert f"<strong>{len(rejected)}</strong> rejected" in page
    assert "<dt>filters</dt><dd>edit_rms &lt;= 0.2</dd>" in page
    store.delete("_rejected/00000.tar")  # rejected images need not be kept
    write_report(store)
    rows = [row for row in data_of(store)["rows"] if tree["statuses"][row[3]] == "rejected"]
    assert all(row[-2] is None for row in rows)


def test_cost_is_price_times_busy_hours(drawn: Store) -> None:
    """Two shards of 100 busy seconds at 18 EUR per hour cost 1 EUR; no price, no cost."""
    write_report(drawn, overrides=["report.price_per_device_hour=18", "report.currency=EUR"])
    page = drawn.get(REPORT_FILE).decode()
    assert "<strong>1 EUR</strong>, 25 a thousand edits" in page
    assert "<strong>0.0556</strong> CPU actor-hours" in page
    write_report(drawn)
    assert " EUR</strong>" not in drawn.get(REPORT_FILE).decode()


def test_the_same_output_gives_the_same_page(drawn: Store) -> None:
    """The page depends on neither time nor chance."""
    write_report(drawn)
    first = drawn.get(REPORT_FILE)
    write_report(drawn)
    assert drawn.get(REPORT_FILE) == first


def test_command_writes_the_page_and_prints_where(
    drawn: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`overpaint report OUT` writes the page; wrong arguments are one line and exit code 2."""
    assert main(["report", drawn.url, "report.image_size=64"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"report: {drawn.url}/_run/report.html (")
    assert "40 edits, 40 with images)" in line
    assert main(["report", f"{tmp_path}/nowhere"]) == 2
    assert "nothing is published here" in capsys.readouterr().err
    assert main(["report", drawn.url, "output.format=png"]) == 2
    assert "report. and input.storage_options*" in capsys.readouterr().err
    assert main(["report", drawn.url, "report.images=64"]) == 2
    assert "unknown key; did you mean 'image_size'?" in capsys.readouterr().err


def test_page_of_a_real_run_names_its_failures(tmp_path: Path) -> None:
    """The page of a run shows failures of the steps, grouped and counted."""
    write_shard(
        tmp_path / "in/0.tar",
        [
            raw_sample("a", ["a cat", "bad"]),
            raw_sample("b", caption=None),
            raw_sample("c", png=b"no image"),
        ],
    )
    plan = run_fake(fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out"), failing=["bad"])
    written = write_report(plan.output, plan.config)
    assert written.num_rows == 4
    page = plan.output.get(REPORT_FILE).decode()
    assert "decode: RuntimeError" in page
    assert "prepare: NotAnImage" in page
    assert "the device went away" in page
