"""Data sets of Hugging Face's with the images in them, as the library itself writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import pytest

from pipeline.pack.found import PackError
from pipeline.pack.plan import make_pack_plan
from tests.committing import contents
from tests.pack.packing import draw, pack, packing, samples_of

COUNT = 5


def data_set(folder: Path) -> tuple[datasets.Dataset, list[bytes]]:
    """Images as bytes, captions, and classes with names; the fourth row has no image."""
    images = [*draw(folder / "drawn", ["0.png", "1.jpg", "2.webp", "3.png", "4.png"]).values()]
    cells: list[dict] = [{"bytes": data, "path": None} for data in images]
    cells[3] = {"bytes": b"no image", "path": "x.png"}
    columns = {
        "image": cells,
        "text": [f"caption {n}" for n in range(COUNT)],
        "label": [n % 2 for n in range(COUNT)],
    }
    features = datasets.Features(
        image=datasets.Image(decode=False),
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["cat", "dog"]),
    )
    return datasets.Dataset.from_dict(columns, features=features), images


@pytest.mark.parametrize("form", ["parquet", "disk"])
def test_rows_become_samples(form: str, tmp_path: Path) -> None:
    """Bytes as they are, over several files and groups of rows; classes keep their names."""
    found, images = data_set(tmp_path)
    home = tmp_path / "set"
    if form == "disk":
        found.save_to_disk(str(home), num_shards=2)
    else:
        (home / "data").mkdir(parents=True)
        for number in range(2):
            part = found.shard(2, number, contiguous=True)
            part.to_parquet(str(home / f"data/{number}.parquet"), batch_size=2)
    packed = pack(tmp_path / "out", home, label="label", samples_per_shard=2)
    samples = list(samples_of(tmp_path / "out").values())
    assert [sample["txt"].decode() for sample in samples] == [f"caption {n}" for n in (0, 1, 2, 4)]
    assert [sample["cls"] for sample in samples] == [b"0", b"1", b"0", b"0"]
    assert samples[0]["png"] == images[0]
    assert samples[1]["jpg"] == images[1]
    assert samples[2]["webp"] == images[2]
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["cat", "dog"]
    assert packed.left_out.counts == {"files that are no image": 1}
    whole = contents(tmp_path / "out")
    (tmp_path / "out/00001.tar").unlink()
    pack(tmp_path / "out", home, label="label", samples_per_shard=2)
    assert contents(tmp_path / "out") == whole


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """Splits, columns of texts in place of images, lost and damaged files."""
    found, _ = data_set(tmp_path)
    home = tmp_path / "set"
    datasets.DatasetDict(train=found, test=found).save_to_disk(str(home))

    def said(source: Path, **settings: str) -> str:
        with pytest.raises(PackError) as caught:
            make_pack_plan(packing(tmp_path / "out", [source], **settings))
        return str(caught.value)

    assert "holds the splits test, train: name one" in said(home)
    train = home / "train"
    assert "pack.image='text': this column of" in said(train, image="text")
    assert "no such column; it has 'image', 'text', 'label'" in said(train, caption="words")
    (data,) = train.glob("*.arrow")
    shutil.copy(data, tmp_path / "kept")
    data.write_bytes(b"cut")
    assert f"{data.name}: cannot be read: " in said(train)
    data.unlink()
    assert f"state.json: names {data.name}, which is not there" in said(train)
    (train / "state.json").write_text("[]")
    assert "state.json: is none that datasets has written" in said(train)
