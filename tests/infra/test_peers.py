"""The script beside Overpaint edits what it is given; rates and ratios by hand; a whole pair."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infra.benchmarks import peers
from infra.benchmarks.peer_editors import DiffEditor, ImagicEditor, SdEditor
from infra.benchmarks.peer_runs import Work, overpaint_overrides, rates
from infra.benchmarks.peer_script import EDITORS, editor_class, edits_of, write
from infra.benchmarks.peers import parse_arguments, report_of
from infra.benchmarks.timed_edit import recorded
from pipeline.config.load import load_config
from pipeline.records.staged import PartResult

SETTINGS = {"steps": 4, "guidance_scale": 4.0, "noises": 2, "embedding_steps": 2, "model_steps": 2}


def make_work(**changes: Any) -> Work:
    values = vars(parse_arguments(["--method", "sdedit", "--batch", "4"]))
    values = {key: value for key, value in values.items() if key not in ("out", "pairs")}
    return Work(**{**values, "overrides": (), "fits": (2, 3), **changes})


def batch_of(number: int) -> dict[str, Any]:
    images = np.random.default_rng(0).integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
    texts = np.array(["a red cat", "a blue dog"] * number)[:number]
    keys = np.array([f"{index:04d}_0" for index in range(number)])
    return {"key": keys, "image": images, "caption": texts[::-1], "text": texts}


@pytest.mark.parametrize("editor", [SdEditor, DiffEditor, ImagicEditor])
def test_a_batch_is_edited_and_written(
    editor: type, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Each image changes, in its size, and stands in the tar with its text."""
    made = editor(model=str(tiny_model_folder), **SETTINGS)
    batch = batch_of(3)
    before = batch["image"]
    edited = made(dict(batch))
    assert edited["edited"].shape == before.shape
    assert all((new != old).any() for new, old in zip(edited["edited"], before, strict=True))
    assert write(edited, str(tmp_path))["edits"] == [3]
    with tarfile.open(tmp_path / "0000_0.tar") as tar:
        assert sorted(tar.getnames())[:2] == ["0000_0.jpg", "0000_0.txt"]
        assert len(tar.getnames()) == 6


@contextmanager
def rows_of(network: torch.nn.Module) -> Iterator[list[int]]:
    """The rows of each call of a network."""
    rows: list[int] = []
    hook = network.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(args[0])), with_kwargs=True
    )
    yield rows
    hook.remove()


def test_the_script_evaluates_batches(tiny_model_folder: Path) -> None:
    """SDEdit: a guided batch a step. DiffEdit: masks one by one, then guided batches."""
    batch = batch_of(3)
    made = SdEditor(model=str(tiny_model_folder), ratio=0.5, **SETTINGS)
    with rows_of(made.pipeline.unet) as rows:
        made(dict(batch))
    assert rows == [6, 6]
    other = DiffEditor(model=str(tiny_model_folder), ratio=0.5, **SETTINGS)
    with rows_of(other.pipeline.unet) as rows:
        other(dict(batch))
    assert rows == [8, 8, 8, *[6] * 4]


def test_imagics_weights_are_restored(tiny_model_folder: Path) -> None:
    """A fit changes them for its own edit only."""
    made = ImagicEditor(model=str(tiny_model_folder), **SETTINGS, model_learning_rate=0.1)
    before = [weight.clone() for weight in made.pipeline.unet.parameters()]
    seen: list[bool] = []
    original = made.pipeline.__class__.__call__

    def watched(self: Any, *args: Any, **more: Any) -> Any:
        weights = zip(self.unet.parameters(), before, strict=True)
        seen.append(any((weight != old).any() for weight, old in weights))
        return original(self, *args, **more)

    made.pipeline.__class__ = type("Watched", (type(made.pipeline),), {"__call__": watched})
    made(batch_of(2))
    assert seen == [True, True]
    assert all(
        torch.equal(weight, old)
        for weight, old in zip(made.pipeline.unet.parameters(), before, strict=True)
    )


def test_each_edit_text_is_a_row() -> None:
    """With the sample's image and caption, and a key of its own."""
    sample = {"__key__": "7", "jpg": 1, "txt": "a dog", "edit.txt": "a cat\na fox"}
    rows = edits_of(sample)
    assert [(row["key"], row["text"]) for row in rows] == [("7_0", "a cat"), ("7_1", "a fox")]
    assert {row["caption"] for row in rows} == {"a dog"}
    assert {editor_class(method) for method in EDITORS} == {SdEditor, DiffEditor, ImagicEditor}


def test_rates_by_hand() -> None:
    """Steady: from the first to the last, without the first's edits. Whole: the process."""
    run = rates([(12.0, 16), (14.0, 16), (16.0, 8)], 2.0, 20.0)
    assert (run["whole_per_s"], run["steady_per_s"], run["edits"]) == (2.0, 6.0, 40)
    assert (run["until_first_s"], run["first_to_last_s"], run["after_last_s"]) == (10.0, 4.0, 6.0)
    assert rates([(12.0, 16)], 2.0, 20.0)["steady_per_s"] is None


def test_ratios_are_medians_over_pairs() -> None:
    """A pair in which a side has one batch only has no steady ratio."""

    def run(steady: float | None, whole: float) -> dict[str, Any]:
        return {"steady_per_s": steady, "whole_per_s": whole}

    pairs = [
        {"overpaint": run(3.0, 2.0), "script": run(1.0, 1.0)},
        {"overpaint": run(9.0, 6.0), "script": run(1.0, 1.0)},
        {"overpaint": run(5.0, 3.0), "script": run(None, 1.0)},
    ]
    assert report_of(make_work(), pairs)["ratio"] == {"steady": 6.0, "whole": 3.0}


def test_sides_alternate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second pair begins with the other side."""
    order: list[str] = []

    def side(name: str) -> Callable[..., dict[str, str]]:
        def run(*_: object) -> dict[str, str]:
            order.append(name)
            return {"name": name}

        return run

    for name in ("overpaint", "script"):
        monkeypatch.setattr(peers, f"run_{name}", side(name))
    for number in range(2):
        pair = peers.measure_pair(tmp_path, make_work(), number)
        assert {name: run["name"] for name, run in pair.items()} == {
            "overpaint": "overpaint",
            "script": "script",
        }
    assert order == ["overpaint", "script", "script", "overpaint"]


@pytest.mark.parametrize(
    ("method", "compiled"), [("sdedit", True), ("diffedit", False), ("imagic", False)]
)
def test_both_sides_get_the_same_settings(method: str, compiled: bool) -> None:
    """Overpaint's config has the script's sampler, dtype, size and strength."""
    work = make_work(method=method, compiled=compiled, ratio=0.25, size=64)
    config = load_config("demo", ["input.shards=x", "output.path=y", *overpaint_overrides(work)])
    assert config.method.name == method
    assert (config.method.steps, config.method.guidance_scale) == (50, 4.0)
    assert (config.model.dtype, config.model.size) == ("float32", 64)
    assert config.model.compile == ("default" if compiled else "off")
    if method == "imagic":
        assert config.method.imagic is not None
        assert config.method.imagic.form == "full"
        assert (config.method.imagic.embedding_steps, config.method.imagic.model_steps) == (2, 3)
    else:
        assert config.method.ratio == 0.25


def test_parts_are_recorded_in_the_driver() -> None:
    """Each result that arrives is noted with its time and edits; afterwards none is."""
    result = PartResult("a", 0, {"edited": 3}, part_id=("", 1, 0))
    with recorded() as parts:
        assert PartResult.from_json(result.to_json()) == result
    PartResult.from_json(result.to_json())
    assert [edits for _, edits in parts] == [3]


@pytest.mark.sweep
@pytest.mark.timeout(1500)
def test_a_whole_pair(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Both sides in processes of their own, with Ray; a JSON with ratios and every edit."""
    work = make_work(
        model=str(tiny_model_folder),
        size=32,
        steps=2,
        edits=16,
        shards=2,
        overrides=("run.part_size=4", "report.enabled=false"),
    )
    out = tmp_path / "pair.json"
    report = peers.measure_pairs(work, 1, out)
    assert json.loads(out.read_text()) == json.loads(json.dumps(report))
    assert set(report["ratio"]) == {"steady", "whole"}
    (pair,) = report["pairs"]
    assert {pair[side]["edits"] for side in ("overpaint", "script")} == {16}
    assert pair["overpaint"]["counts"]["edited"] == 16
