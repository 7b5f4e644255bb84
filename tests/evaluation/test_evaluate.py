"""From a benchmark's files to its table: what counts, and that the figures are the protocol's."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from jobs.cli import main
from pipeline.evaluation import imagenet, pie_bench
from pipeline.evaluation.class_means import at_side
from pipeline.evaluation.flexit import FlexitJudge
from pipeline.evaluation.measure import Seen, measure, summary
from pipeline.evaluation.region import RegionJudge
from pipeline.evaluation.tasks import Task, write_shards
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inception import Inception
from pipeline.models.scorers import Judged, Scorers
from pipeline.storage.store import Store
from pipeline.words.scores import Scores
from tests.committing import SIZE
from tests.evaluation.test_formats import pie_entry, write_pie
from tests.fake_job import fake_plan, run_fake
from tests.reference import background as reference
from tests.reference.background import mse, psnr_db, ssim
from tests.samples import encode, pixels
from tests.tiny_inception import inception_weights
from tests.tiny_scorers import make_tiny_scorers

BILINEAR = Image.Resampling.BILINEAR


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Scorers with small random weights, as the configuration asks for them."""
    return make_tiny_scorers(tmp_path_factory.mktemp("scorers"))


def task(number: int, edit_text: str, truth: np.ndarray | None) -> Task:
    """A picture of the model's own size, so that nothing is resized."""
    picture = encode(pixels(number, SIZE, SIZE))
    return Task(f"{number:03d}", picture, "png", "a dog", edit_text, "group", truth)


def test_figures_are_the_protocol_s(tmp_path: Path) -> None:
    """PSNR, SSIM and MSE of both forms, by reference; the mask's IoU, counted by hand."""
    truth = np.zeros((SIZE, SIZE), bool)
    truth[8:24, 8:32] = True  # exactly the cells that the stand-in method masks
    truth[0:4, 0:4] = True  # and one that it does not
    full = np.ones((SIZE, SIZE), bool)
    tasks = [
        task(0, "a cat", truth),
        task(1, "a dog", truth),  # the texts agree: unchanged
        task(2, "bad", truth),
        task(3, "a cat", full),
    ]
    write_shards(tasks, Store(str(tmp_path)))

    off = {"method": {"composite": {"enabled": False}}}
    plan = run_fake(fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out", **off), failing=["bad"])
    first, same, failed, everywhere = measure(plan.config, SIZE)
    assert [item.status for item in (first, same, failed)] == ["edited", "unchanged", "failed"]
    assert failed.figures == {}

    before = pixels(0, SIZE, SIZE)
    after = 255 - before
    outside = ~truth
    blacked = [picture * outside[..., None] for picture in (before, after)]
    expected = {
        "psnr_frame_db": psnr_db(mse(*blacked)),
        "ssim_frame_e2": 100 * ssim(*blacked),
        "mse_frame_e4": 1e4 * mse(*blacked),
        "psnr_db": psnr_db(mse(before, after, outside)),
        "ssim_e2": 100 * ssim(before, after, outside),
        "mse_e4": 1e4 * mse(before, after, outside),
    }
    for name, value in expected.items():
        assert first.figures[name] == pytest.approx(value, rel=1e-5), name
    assert first.figures["mask_iou"] == pytest.approx(16 * 24 / (16 * 24 + 16))

    assert same.figures["psnr_db"] == 100.0
    assert same.figures["mask_iou"] == 0.0
    assert same.figures["edit_rms"] == 0.0
    assert "psnr_frame_db" not in everywhere.figures  # no pixel is background
    assert everywhere.figures["mask_iou"] == pytest.approx(16 * 24 / SIZE**2)

    found = summary([first, same, failed, everywhere])
    assert found["counts"] == {"edited": 2, "failed": 1, "unchanged": 1}
    assert found["edits_with_figure"]["psnr_db"] == 2
    assert found["figures"]["psnr_db"] == pytest.approx((first.figures["psnr_db"] + 100) / 2)


def test_the_region_is_judged_as_pie_bench_masks_it(section: dict[str, Any]) -> None:
    """LPIPS with the region black in both, CLIP with all else black in the one after.

    Masked here pixel by pixel, and judged by the stage's own way through the same networks.
    """
    scorers = Scorers(
        Scores.model_validate({name: section[name] for name in ("clip", "lpips")}), "cpu", 2
    )
    truth = np.zeros((48, 48), bool)
    truth[10:30, 5:20] = True
    full, before = np.ones((48, 48), bool), pixels(1, 48, 48)
    pairs = [(pixels(2, 48, 48), truth), (pixels(3, 48, 48), full), (pixels(4, 48, 48), None)]
    seen = [Seen({}, "a red dog", before, after, mask, False) for after, mask in pairs]
    seen.append(Seen({}, "a cat", before, before, truth, True))
    local, everywhere, unknown, same = RegionJudge(scorers).edits(seen)

    outside, inside = (before.copy(), pairs[0][0].copy()), pairs[0][0].copy()
    for row, column in itertools.product(range(48), range(48)):
        if truth[row, column]:
            outside[0][row, column] = outside[1][row, column] = 0
        else:
            inside[row, column] = 0
    (kept,) = scorers([outside[0]], [Judged(0, outside[1], "", "")])
    (edited,) = scorers([before], [Judged(0, inside, "", "a red dog")])
    assert local["lpips_frame_e3"] == pytest.approx(1e3 * kept["lpips"], rel=1e-5)
    assert local["lpips_frame_e3"] > 0
    assert local["clip_edited"] == pytest.approx(
        max(0.0, 100 * edited["clip_text_after"]), rel=1e-5, abs=1e-4
    )
    assert everywhere.keys() == {"clip_edited"}  # no background; the whole stands in the row
    assert unknown == {}
    assert same["lpips_frame_e3"] == 0.0
    (whole,) = scorers([before], [Judged(0, before, "", "a cat")])
    assert same["clip_whole"] == pytest.approx(
        max(0.0, 100 * whole["clip_text_after"]), rel=1e-5, abs=1e-4
    )


def asked(section: dict[str, Any], *names: str) -> list[str]:
    """The overrides that ask for scores."""
    return [f"scores.{name}={json.dumps(section[name])}" for name in names]


@pytest.fixture
def evaluate(tiny_model_folder: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The command over the tiny model without Ray; returns what it wrote as JSON."""

    def run(benchmark: str, data: Path, *more: str, code: int = 0) -> dict[str, Any]:
        command = [
            *("evaluate", benchmark, "--plain", "--data", str(data), "--out", str(tmp_path / "o")),
            *(f"model.path={tiny_model_folder}", "method.steps=2", "method.mask.num_noises=1"),
        ]
        assert main([*command, *more]) == code
        return json.loads((tmp_path / "o/evaluation.json").read_text()) if code == 0 else {}

    return run


def test_pie_bench_from_its_files_to_its_table(
    tmp_path: Path,
    section: dict[str, Any],
    evaluate: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One command; every published column beside ours; a second run computes nothing again."""
    entries = {f"{number:04d}": pie_entry(number) for number in range(2)}
    data = write_pie(tmp_path / "pie", entries)
    scores = asked(section, "clip", "lpips", "dino")
    report = evaluate("pie-bench", data, *scores, "method.mask.source=full")
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
    again = evaluate("pie-bench", data, *scores, "method.mask.source=full")
    assert tar.stat().st_mtime_ns == before
    assert again == report


def test_without_networks_the_table_says_what_is_missing(
    tmp_path: Path, evaluate: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """And which key asks for it."""
    data = write_pie(tmp_path / "pie", {"0000": pie_entry(0)})
    evaluate("pie-bench", data)
    printed = capsys.readouterr().out
    assert "Not measured: structure_e3 (scores.dino), lpips_frame_e3 (scores.lpips)," in printed


def write_tedbench(folder: Path) -> Path:
    """Two texts for one picture."""
    (folder / "originals").mkdir(parents=True)
    (folder / "originals/cat.jpg").write_bytes(encode(pixels(1), "jpg"))
    entries = [{"img_name": "cat.jpg", "target_text": text} for text in ("a cat yawns", "a dog")]
    (folder / "input_list.json").write_text(json.dumps(entries))
    return folder


def test_tedbench_from_its_files_to_its_table(
    tmp_path: Path,
    section: dict[str, Any],
    evaluate: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """CLIP score and LPIPS of a sweep over two ratios: the axes of its curves."""
    report = evaluate(
        *(
            "tedbench",
            write_tedbench(tmp_path / "ted"),
            *asked(section, "clip", "lpips"),
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
    """Three queries of FlexIT's, two of them for the test, and real pictures of two classes."""
    pictures = {0: "n0/a.JPEG", 1: "n1/b.JPEG"}
    lines = [",path,source,source_id,target,target_id,is_test"]
    for number, (source, target, is_test) in enumerate([(0, 1, True), (1, 0, True), (0, 1, False)]):
        names = f"{pictures[source]},class {source},{source},class {target},{target}"
        lines.append(f"{100 + number},{names},{is_test}")
    for seed, path in pictures.items():
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
    evaluate: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The test half: LPIPS, accuracy, and CSFID by its definition, from what was written."""
    data = write_imagenet(tmp_path / "imagenet")
    weights = inception_weights(narrower=16)
    save_file(weights, tmp_path / "inception.safetensors")
    networks = [
        *("--inception", str(tmp_path / "inception.safetensors"), "--real", str(data / "train")),
        *("--classifier", section["nsfw"]["path"]),
    ]
    report = evaluate(
        "imagenet", data, *networks, *asked(section, "lpips"), "method.mask.source=full"
    )
    printed = capsys.readouterr().out
    assert "| FlexIT, 5 networks, 160 steps (published) | 25.50 | 67.00 | 52.00 |" in printed
    assert "Not measured" not in printed
    found = report["ours"]["diffedit, 0.8"]
    assert found["counts"] == {"edited": 2}
    assert set(imagenet.COLUMNS) <= found["figures"].keys()

    network = Inception(weights)

    def features(picture: Image.Image) -> np.ndarray:
        return network.features([np.asarray(picture.resize((256, 256), BILINEAR))])[0]

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
        *("imagenet", data, *networks[:2], "--real", str(means), "method.mask.source=full"),
        *asked(section, "lpips"),
    )
    assert again["ours"]["diffedit, 0.8"]["figures"]["csfid"] == found["figures"]["csfid"]
    assert "Not measured: accuracy_e2 (--classifier)," in capsys.readouterr().out


def test_pictures_are_scaled_and_then_cropped() -> None:
    """As FlexIT does: the shorter side to 256, then the middle; other pixels shine in there."""
    wide = Image.fromarray(pixels(1, 512, 1024))
    scaled = np.asarray(wide.resize((512, 256), BILINEAR))
    assert np.array_equal(at_side(wide), scaled[:, 128:384])
    assert np.array_equal(at_side(scaled[:, 128:384]), scaled[:, 128:384])


def test_flexit_s_accuracy_is_among_the_targets(section: dict[str, Any], tmp_path: Path) -> None:
    """The likeliest of the classes given: by the network's own logits, its preparation by hand.

    Its folder would have pictures scaled to 40 pixels first; FlexIT gives them at the network's.
    """
    folder = shutil.copytree(section["nsfw"]["path"], tmp_path / "classifier")
    ViTImageProcessorPil(size={"height": 40, "width": 40}).save_pretrained(folder)
    classifier = ImageClassifier(str(folder), "cpu", micro_batch=2)
    pictures = [pixels(number, SIZE, SIZE) for number in range(6)]
    batch = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    with torch.inference_mode():
        logits = classifier.network(torch.from_numpy(batch)).logits
    assert classifier.side == SIZE
    assert classifier.most_likely(pictures, [0, 1]) == logits.argmax(1).tolist()
    assert classifier.most_likely(pictures, [1]) == [1] * 6
    seen = [
        Seen({"source_id": "0", "target_id": "1"}, "", item, item, None, False) for item in pictures
    ]
    figures = FlexitJudge(classifier=classifier, classes=[0, 1]).edits(seen)
    chosen = [int(of.argmax()) for of in logits]
    assert [item["accuracy_e2"] for item in figures] == [100.0 * number for number in chosen]
    assert [item["unedited_e2"] for item in figures] == [100.0 - 100.0 * n for n in chosen]


def test_flexit_s_lpips_is_of_pictures_of_256_pixels(section: dict[str, Any]) -> None:
    """Both pictures scaled, then judged as the stage judges."""
    scorers = Scorers(Scores.model_validate({"lpips": section["lpips"]}), "cpu", 2)
    before, after = pixels(1, 64, 64), pixels(2, 64, 64)
    (figures,) = FlexitJudge(scorers=scorers).edits([Seen({}, "", before, after, None, False)])
    large = [
        np.asarray(Image.fromarray(picture).resize((256, 256), BILINEAR))
        for picture in (before, after)
    ]
    (wanted,) = scorers([large[0]], [Judged(0, large[1], "", "")])
    assert wanted["lpips"] > 0
    assert figures["lpips_e2"] == pytest.approx(100 * wanted["lpips"], rel=1e-5)
    assert figures["lpips_e3"] == pytest.approx(10 * figures["lpips_e2"])


def test_missing_networks_are_said_at_the_start(
    tmp_path: Path,
    section: dict[str, Any],
    evaluate: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line that names the option and says where to get it, before anything is computed."""
    data = write_imagenet(tmp_path / "imagenet")
    save_file(inception_weights(narrower=16), tmp_path / "i.safetensors")
    inception, real = ("--inception", str(tmp_path / "i.safetensors")), ("--real", str(data / "x"))
    cases = [
        (("--inception", "gone.safetensors", *real), "no such file; it takes pt_inception-2015"),
        (inception, "--inception and --real belong together"),
        ((*inception, *real), "no such folder or file of real pictures"),
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
    assert "--inception is for imagenet" in capsys.readouterr().err


@pytest.mark.slow
def test_under_ray_the_same_pictures_are_measured(
    tmp_path: Path, evaluate: Callable[..., dict[str, Any]], tiny_model_folder: Path
) -> None:
    """The job of ``overpaint edit`` by default: the same shards, and the same figures."""
    data = write_tedbench(tmp_path / "ted")
    plain = evaluate("tedbench", data)
    command = [
        *("evaluate", "tedbench", "--data", str(data), "--out", str(tmp_path / "ray")),
        *(f"model.path={tiny_model_folder}", "method.steps=2", "method.mask.num_noises=1"),
        *("run.layout=fused", "run.num_cpus=2"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *command], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "report: " in done.stdout
    assert json.loads((tmp_path / "ray/evaluation.json").read_text()) == plain
    shard = Path("out/00000.tar")
    assert (tmp_path / "ray" / shard).read_bytes() == (tmp_path / "o" / shard).read_bytes()


def test_a_run_that_is_interrupted_is_not_measured(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job's own exit code is passed on, and no figures are written."""
    data = write_pie(tmp_path / "pie", {"0000": pie_entry(0)})
    monkeypatch.setattr("jobs.evaluate.edit", lambda config, verbose: (75, None))
    command = ["evaluate", "pie-bench", "--data", str(data), "--out", str(tmp_path / "o")]
    assert main([*command, f"model.path={tiny_model_folder}"]) == 75
    assert not (tmp_path / "o/evaluation.json").exists()


@pytest.mark.slow
def test_demo_sweep_draws_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two methods, two ratios, three edits of the demo world: JSON, table, plot, intervals."""
    command = [
        *("evaluate", "demo", "--plain", "--out", str(tmp_path), "--limit", "3", "--sweep"),
        *("--ratios", "0.3,1", "--methods", "DiffEdit,SDEdit"),
        *("method.steps=4", "method.mask.num_noises=1"),
    ]
    assert main(command) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert [(p["method"], p["ratio"]) for p in report["points"]] == [
        *(("DiffEdit", 0.3), ("DiffEdit", 1.0), ("SDEdit", 0.3), ("SDEdit", 1.0)),
    ]
    assert all("confirmed_e2" in point["figures"] for point in report["points"])
    assert all(not method["composite"]["enabled"] for method in report["methods"].values())
    (compared,) = report["compared"]
    assert compared["bootstrap"]["edits"] == 3
    assert len(compared["bootstrap"]["intervals"]) == len(compared["difference"])
    assert (tmp_path / "evaluation.png").is_file()
    assert "| SDEdit, 1 |" in (printed := capsys.readouterr().out)
    assert "resamples of 3 edits" in printed


def test_wrong_uses_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No data, a folder that is no benchmark: exit code 2 before anything is loaded."""
    assert main(["evaluate", "pie-bench"]) == 2
    assert "--data DIR must name the benchmark" in capsys.readouterr().err
    assert main(["evaluate", "tedbench", "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "input_list.json" in error
    assert len(error.splitlines()) == 1
