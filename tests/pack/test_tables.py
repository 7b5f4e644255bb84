"""A folder of images with a table of captions: CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.pack.found import PackError
from pipeline.pack.plan import make_pack_plan
from tests.pack.packing import draw, pack, packing, samples_of

NAMES = ("a.png", "b.jpg", "deep/c.webp")
ROWS = [
    {"file_name": "b.jpg", "text": "a dog, sitting", "edit": "a cat, sitting", "n": "007"},
    {"file_name": "a.png", "text": "un été à Zürich", "edit": "", "n": "1"},
    {"file_name": "deep/c.webp", "text": "2020-01-01", "edit": "2021\n2022", "n": "2"},
]


def write_table(folder: Path, kind: str) -> Path:
    path = folder / f"captions.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        comma = {"csv": ",", "tsv": "\t"}[kind]
        cells = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
        path.write_text(
            "".join(comma.join(f'"{cell}"' for cell in row) + "\n" for row in cells),
            encoding="utf-8-sig",
        )
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_each_kind_of_table_gives_the_same_samples(kind: str, tmp_path: Path) -> None:
    """In the table's order, with the images' bytes as they are; texts stay texts."""
    images = draw(tmp_path / "photos", NAMES)
    write_table(tmp_path / "photos", kind)
    packed = pack(tmp_path / "out", tmp_path / "photos", extras=["n"])
    assert (packed.samples, packed.left_out.total) == (3, 0)
    samples = samples_of(tmp_path / "out")
    assert list(samples) == ["b", "a", "deep/c"]
    assert samples["b"] == {
        "jpg": images["b.jpg"],
        "txt": b"a dog, sitting",
        "edit.txt": b"a cat, sitting",
        "json": b'{"pack": {"source": "b.jpg", "columns": {"n": "007"}}}',
    }
    assert "edit.txt" not in samples["a"]
    assert samples["a"]["txt"].decode() == "un été à Zürich"
    assert samples["deep/c"]["txt"] == b"2020-01-01"
    assert samples["deep/c"]["edit.txt"] == b"2021\n2022"


def test_a_table_named_by_itself_takes_images_from_elsewhere(tmp_path: Path) -> None:
    """Columns of other names, several columns of edits, a list in one, whole paths, classes."""
    draw(tmp_path / "photos", NAMES)
    rows = [
        {"img": str(tmp_path / "photos/a.png"), "said": "a", "one": "x", "two": ["y", "z z"]},
        {"img": "./b.jpg", "said": "b", "one": None, "two": [], "kind": "dog"},
        {"img": "deep/c.webp", "said": "c", "kind": "cat"},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(
        tmp_path / "out",
        tmp_path / "t.jsonl",
        images=str(tmp_path / "photos"),
        image="img",
        caption="said",
        edits=["one", "two"],
        label="kind",
    )
    samples = samples_of(tmp_path / "out")
    assert list(samples) == ["a", "b", "deep/c"]
    assert samples["a"]["edit.txt"] == b"x\ny\nz z"
    assert "edit.txt" not in samples["b"]
    assert [sample.get("cls") for sample in samples.values()] == [None, b"1", b"0"]
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"caption": "txt"}, r"pack\.caption='txt': .* no such column; it has 'file_name', 'text'"),
        (
            {"edits": ["edit", "e2"]},
            r"pack\.edits='e2': .* it has 'file_name', 'text', 'edit', 'n'",
        ),
        ({"extras": ["k"]}, r"pack\.extras='k': "),
        ({"label": "cls"}, r"pack\.label='cls': "),
    ],
)
def test_a_missing_column_is_named_with_those_there(
    settings: dict, error: str, tmp_path: Path
) -> None:
    draw(tmp_path / "photos", NAMES)
    write_table(tmp_path / "photos", "csv")
    with pytest.raises(PackError, match=error):
        make_pack_plan(packing(tmp_path / "out", [tmp_path / "photos"], **settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("t.csv", b"picture,words\na.png,x\n", r"no column file_name or image or .*'picture'"),
        ("t.csv", b"file_name;text\na.png;x\n", r"it has 'file_name;text'"),
        ("t.csv", b"file_name,text,text\na.png,x,y\n", "'text' stands twice"),
        ("t.csv", b"file_name,text\na.png,\xff\xfe\n", "cannot be read as CSV: .*utf-8"),
        ("t.csv", b"\xff\xfe,text\na.png,x\n", "cannot be read as CSV: .*utf-8"),
        ("t.csv", b"file_name,text\n" + b"a.png,x\n" * 9999 + b"a.png,\xff\n", "save it as UTF-8"),
        ("t.csv", b"file_name,text," + b"x" * 200_000 + b"\n", "cannot be read as CSV: field"),
        ("t.csv", b"", "cannot be read as CSV: Empty CSV file"),
        ("t.parquet", b"PAR1 no PAR1", "cannot be read as PARQUET"),
        ("t.jsonl", b"", "it has none"),
    ],
)
def test_a_damaged_table_is_refused(name: str, content: bytes, error: str, tmp_path: Path) -> None:
    """Before anything is written, with the file's name and the reason."""
    draw(tmp_path / "photos", NAMES)
    (tmp_path / "photos" / name).write_bytes(content)
    with pytest.raises(PackError, match=error) as caught:
        make_pack_plan(packing(tmp_path / "out", [tmp_path / "photos"]))
    assert name in str(caught.value)


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    """Nothing is left out in silence: bad rows, twins, both sides without the other, no images."""
    photos = tmp_path / "photos"
    draw(photos, ["a.png", "b.png", "c.png", "d.png", "e.png"])
    (photos / "b.png").write_bytes(b"no image")
    (photos / "c.png").write_bytes(b"")
    rows = ["a.png,x", "a.png,y", "b.png,x", "c.png,x", "d.png, ", "gone.png,x", "../up.png,x"]
    (photos / "t.csv").write_text("\n".join(["file_name,text", *rows, "one,two,three"]) + "\n")
    packed = pack(tmp_path / "out", photos)
    assert packed.samples == 1
    assert packed.left_out.counts == {
        "captions without an image": 2,
        "files that are no image": 2,
        "further captions of an image that has one": 1,
        "images without a caption": 2,
        "rows that cannot be read": 1,
    }
    assert packed.left_out.names["files that are no image"] == ["b.png", "c.png"]
    assert packed.left_out.names["images without a caption"] == ["d.png", "e.png"]
    assert packed.left_out.names["rows that cannot be read"] == [f"{photos}/t.csv: row 9"]
    summary = json.loads((tmp_path / "out/_pack/summary.json").read_text())
    counts = {reason: item["count"] for reason, item in summary["left_out"].items()}
    assert counts == packed.left_out.counts
    (photos / "t.csv").unlink()
    (photos / "t.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n[1]\n{"file_name"\n')
    packed = pack(tmp_path / "lines", photos)
    reason = "rows that cannot be read"
    assert packed.left_out.names[reason] == [f"{photos}/t.jsonl: line {n}" for n in (2, 3)]


def test_two_tables_in_a_folder_are_not_guessed_between(tmp_path: Path) -> None:
    draw(tmp_path / "photos", NAMES)
    for kind in ("csv", "jsonl"):
        write_table(tmp_path / "photos", kind)
    with pytest.raises(PackError, match=r"2 tables \(captions\.csv, captions\.jsonl\)"):
        make_pack_plan(packing(tmp_path / "out", [tmp_path / "photos"]))
