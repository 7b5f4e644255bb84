"""Each public benchmark from small files in its format to its table, by the command."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import save_file

from pipeline.evaluation import imagenet, pie_bench
from pipeline.models.inception import Inception
from tests.evaluation.test_formats import pie_entry, write_pie
from tests.jobs.evaluate.conftest import Evaluate, score_overrides
from tests.reference import background as reference
from tests.samples import encode, pixels
from tests.tiny_inception import inception_weights

BILINEAR = Image.Resampling.BILINEAR
EVERYWHERE = ("method.mask.source=full", "method.encode_ratio=0.8")


def test_pie_bench_from_its_files_to_its_table(
    tmp_path: Path,
    section: dict[str, Any],
    evaluate: Evaluate,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The table has every published column; a second run recomputes nothing."""
    entries = {f"{number:04d}": pie_entry(number) for number in range(2)}
    data = write_pie(tmp_path / "pie", entries)
    scores = score_overrides(section, "clip", "lpips", "dino")
    report = evaluate("pie-bench", data, *scores, *EVERYWHERE)
    printed = capsys.readouterr().out
    assert "| PnPInversion + P2P (published) | 11.65 | 27.22 | 54.55 | – | 84.76 |" in printed
    assert "Not measured" not in printed
    row = next(line for line in printed.splitlines() if line.startswith("| diffedit, 0.8 |"))
    assert "–" not in row
    ours = report["ours"]["diffedit, 0.8"]
    assert ours["counts"] == {"edited": 2}
    assert set(pie_bench.COLUMNS) <= ours["figures"].keys()
    assert list(ours["groups"]) == ["1 change object"]
    edits = pq.read_table(tmp_path / "o/edits.parquet").to_pylist()
    assert [row["key"] for row in edits] == ["0000", "0001"]
    for name in ("lpips_frame_e3", "clip_edited", "structure_e3", "psnr_db"):
        mean = (edits[0][name] + edits[1][name]) / 2
        assert ours["figures"][name] == pytest.approx(mean, rel=1e-12), name
    tar = tmp_path / "o/out/00000.tar"
    before = tar.stat().st_mtime_ns
    again = evaluate("pie-bench", data, *scores, *EVERYWHERE)
    assert tar.stat().st_mtime_ns == before
    assert again == report


def test_without_scorers_the_table_names_the_missing_columns(
    tmp_path: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    """It also names the key that adds each column."""
    data = write_pie(tmp_path / "pie", {"0000": pie_entry(0)})
    evaluate("pie-bench", data)
    printed = capsys.readouterr().out
    assert "Not measured: structure_e3 (scores.dino), lpips_frame_e3 (scores.lpips)," in printed


def write_tedbench(folder: Path) -> Path:
    """Writes a benchmark with two texts for one image."""
    (folder / "originals").mkdir(parents=True)
    (folder / "originals/cat.jpg").write_bytes(encode(pixels(1), "jpg"))
    entries = [{"img_name": "cat.jpg", "target_text": text} for text in ("a cat yawns", "a dog")]
    (folder / "input_list.json").write_text(json.dumps(entries))
    return folder


def test_tedbench_from_its_files_to_its_table(
    tmp_path: Path,
    section: dict[str, Any],
    evaluate: Evaluate,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A sweep over two ratios has the axes of its curves, CLIP score and LPIPS."""
    report = evaluate(
        *(
            "tedbench",
            write_tedbench(tmp_path / "ted"),
            *score_overrides(section, "clip", "lpips"),
            "--sweep",
        ),
        *("--ratios", "0.5,1", "--methods", "DiffEdit,SDEdit"),
    )
    assert report["tasks"] == 2
    assert [set(point["figures"]) & {"lpips_e3", "clip_whole"} for point in report["points"]] == [
        {"lpips_e3", "clip_whole"}
    ] * 4
    (compared,) = report["compared"]
    assert compared["overlap"] is None or compared["distance"] == "lpips_e3"
    assert (tmp_path / "o/evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert "| method | LPIPS x1e3 | CLIP whole |" in capsys.readouterr().out


def write_imagenet(folder: Path) -> Path:
    """Writes three of FlexIT's queries, two in the test split, and real images of two classes."""
    images = {0: "n0/a.JPEG", 1: "n1/b.JPEG"}
    lines = [",path,source,source_id,target,target_id,is_test"]
    for number, (source, target, is_test) in enumerate([(0, 1, True), (1, 0, True), (0, 1, False)]):
        names = f"{images[source]},class {source},{source},class {target},{target}"
        lines.append(f"{100 + number},{names},{is_test}")
    for seed, path in images.items():
        (folder / "val" / path).parent.mkdir(parents=True)
        (folder / "val" / path).write_bytes(encode(pixels(seed, 80, 96), "jpg", quality=95))
    (folder / "queries.csv").write_text("\n".join(lines) + "\n")
    for number in (0, 1):
        (folder / f"train/{number}").mkdir(parents=True)
        for seed in range(2 + number):
            real = encode(pixels(50 + 10 * number + seed, 80, 80), "jpg", quality=95)
            (folder / f"train/{number}/{seed}.JPEG").write_bytes(real)
    return folder


def test_imagenet_from_its_files_to_its_table(
    tmp_path: Path,
    section: dict[str, Any],
    evaluate: Evaluate,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the test split: LPIPS, accuracy, and CSFID by its definition from the written images."""
    data = write_imagenet(tmp_path / "imagenet")
    weights = inception_weights(narrower=16)
    save_file(weights, tmp_path / "inception.safetensors")
    networks = [
        *("--inception", str(tmp_path / "inception.safetensors"), "--real", str(data / "train")),
        *("--classifier", section["nsfw"]["path"]),
    ]
    report = evaluate("imagenet", data, *networks, *score_overrides(section, "lpips"), *EVERYWHERE)
    printed = capsys.readouterr().out
    assert "| FlexIT, 5 networks, 160 steps (published) | 25.50 | 67.00 | 52.00 |" in printed
    assert "Not measured" not in printed
    found = report["ours"]["diffedit, 0.8"]
    assert found["counts"] == {"edited": 2}
    assert set(imagenet.COLUMNS) <= found["figures"].keys()

    network = Inception(weights)

    def features(image: Image.Image) -> np.ndarray:
        return network.features([np.asarray(image.resize((256, 256), BILINEAR))])[0]

    with tarfile.open(tmp_path / "o/out/00000.tar") as tar:
        edited = {
            target: np.stack([features(Image.open(tar.extractfile(f"{key}_0.png")))])  # type: ignore[arg-type]
            for target, key in (("1", "100"), ("0", "101"))
        }
    real = {
        number: np.stack([features(Image.open(path)) for path in sorted(folder.iterdir())])
        for number, folder in (("0", data / "train/0"), ("1", data / "train/1"))
    }
    wanted = reference.csfid(edited, real)
    assert found["figures"]["csfid"] == pytest.approx(wanted, rel=1e-5)

    (means,) = (tmp_path / "o").glob("class_means-*.safetensors")
    again = evaluate(
        *("imagenet", data, *networks[:2], "--real", str(means), *EVERYWHERE),
        *score_overrides(section, "lpips"),
    )
    assert again["ours"]["diffedit, 0.8"]["figures"]["csfid"] == found["figures"]["csfid"]
    assert "Not measured: accuracy_e2 (--classifier)," in capsys.readouterr().out


def test_missing_networks_are_an_error_at_start_up(
    tmp_path: Path,
    section: dict[str, Any],
    evaluate: Evaluate,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line names the option and where to get the file, before anything is computed."""
    data = write_imagenet(tmp_path / "imagenet")
    save_file(inception_weights(narrower=16), tmp_path / "i.safetensors")
    inception, real = ("--inception", str(tmp_path / "i.safetensors")), ("--real", str(data / "x"))
    cases = [
        (("--inception", "gone.safetensors", *real), "no such file; it takes pt_inception-2015"),
        (inception, "CSFID needs --inception and --real"),
        ((*inception, *real), "no such folder or file of real images"),
        ((*inception, "--real", str(data / "val")), "no folder for class 0"),
        (("--classifier", str(tmp_path)), "--classifier="),
    ]
    for options, message in cases:
        evaluate("imagenet", data, *options, code=2)
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "o/out").exists()
    pie = write_pie(tmp_path / "pie", {"0000": pie_entry(0)})
    evaluate("pie-bench", pie, *inception, *real, code=2)
    assert "--inception is only for imagenet" in capsys.readouterr().err
