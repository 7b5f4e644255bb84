"""A family is one file: how files are found, what they say, and texts of unequal length."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.denoiser import Condition, Repeated
from pipeline.models import families
from pipeline.models.families import all_families, family_named
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.models.probe import probe_model

MOST_LINES = 135
TEXTS = [
    "a dog",
    "",
    "A  DOG",
    "dog " * 300,
    "日本語 🐕",
    "<|endoftext|> a dog",
    "a dog\nand a cat",
]

NEW_FAMILY = """
from pipeline.models.families.stable_diffusion import StableDiffusion

class Painted(StableDiffusion):
    name = "painted"
    pipelines = ("PaintedPipeline",)

FAMILY = Painted()
"""


@pytest.fixture
def new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of a family that is nowhere listed, beside the others."""
    path = tmp_path / "beside/painted.py"
    path.parent.mkdir()
    path.write_text(NEW_FAMILY)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(path.parent)])
    importlib.invalidate_caches()
    all_families.cache_clear()
    yield path
    all_families.cache_clear()
    sys.modules.pop("pipeline.models.families.painted", None)


def test_a_file_is_all_that_a_family_needs(new_file: Path, folder: Path) -> None:
    """A folder of its pipeline class is found, and named in errors, without another change."""
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "PaintedPipeline"}))
    assert probe_model(Model(path=str(folder))).family == "painted"
    assert family_named("painted").needs in _refused(folder, "NoPipeline")


def test_an_unknown_class_is_told_what_each_family_needs(folder: Path) -> None:
    """The error is one line with every family, its class, and the folders that it has."""
    refused = _refused(folder, "NoPipeline")
    assert "\n" not in refused
    assert "pipeline class NoPipeline; allowed are the families " in refused
    for family in all_families():
        assert f"{family.name} ({family.pipelines[0]} with {family.network[0]}, vae, " in refused
    assert "text_encoder_3" not in refused.split("stable-diffusion-3")[1].split(";")[0]  # optional


def _refused(folder: Path, pipeline_class: str) -> str:
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": pipeline_class}))
    with pytest.raises(ValueError, match=r"model\.path=") as caught:
        probe_model(Model(path=str(folder)))
    return str(caught.value)


def test_files_are_short_and_say_different_things() -> None:
    """No file is longer than 135 lines; names and pipeline classes occur once."""
    paths = sorted(Path(families.__path__[0]).glob("*.py"))
    assert len(paths) == len(all_families()) + 1
    assert max(len(path.read_text().splitlines()) for path in paths) <= MOST_LINES
    names = [family.name for family in all_families()]
    classes = [name for family in all_families() for name in family.pipelines]
    assert len(set(names)) == len(names)
    assert len(set(classes)) == len(classes)


def test_families_load_without_torch() -> None:
    """The driver reads them when it starts."""
    code = (
        "import sys; from pipeline.models.families import all_families; all_families(); "
        "assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _check_ids(model: LatentDiffusion) -> None:
    """The ids that tell texts apart are those that the family's pipeline gives its encoders."""
    seen: dict[str, list[tuple[int, ...]]] = {}
    hooks = [
        tower.encoder.register_forward_pre_hook(
            lambda module, args, kwargs, name=tower.name: seen.setdefault(name, []).extend(
                tuple(row) for row in (args[0] if args else kwargs["input_ids"]).tolist()
            ),
            with_kwargs=True,
        )
        for tower in model.text.towers
    ]
    model.text.encode(TEXTS)
    for hook in hooks:
        hook.remove()
    distinct = list(dict.fromkeys(model.text.token_ids(text) for text in TEXTS))
    for number, tower in enumerate(model.text.towers):
        assert seen[tower.name] == [ids[number] for ids in distinct], tower.name


def test_token_ids_are_what_the_encoders_get(
    family_model: LatentDiffusion, tiny_model: LatentDiffusion
) -> None:
    """For every encoder, of texts of any length; each distinct one is encoded once."""
    _check_ids(family_model)
    _check_ids(tiny_model)


def test_a_cut_text_is_no_line_in_the_log(
    family_folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The note in its row says it; a line for each text would flood the log."""
    model = load_model(Model(path=str(family_folder)), "cpu", Stage())
    capfd.readouterr()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        model.text.encode(["dog " * 300])
        model.text.truncation_note("edit text", "dog " * 300)
    assert caplog.text == ""
    assert "oken" not in capfd.readouterr().err


def _row(length: int, value: float) -> torch.Tensor:
    return torch.full((length, 2), value)


def test_texts_of_unequal_length_are_padded_and_masked() -> None:
    """Each text comes back as it was; padding is zeros that the mask leaves out."""
    condition = Condition.cat(
        [Condition.of_rows([_row(3, 1.0), _row(1, 2.0)]), Condition.of_rows([_row(5, 3.0)])]
    )
    assert condition.tokens.shape == (3, 5, 2)
    assert condition.seen().sum(1).tolist() == [3, 1, 5]
    assert not condition.tokens[~condition.seen()].any()
    for found, expected in zip(
        condition.rows(), (_row(3, 1.0), _row(1, 2.0), _row(5, 3.0)), strict=True
    ):
        assert torch.equal(found, expected)
    chosen = condition[torch.tensor([2, 1])].to(torch.float64)
    assert [len(row) for row in chosen.rows()] == [5, 1]
    assert chosen.tokens.dtype == torch.float64


def test_texts_of_one_length_have_no_mask() -> None:
    """So nothing changes for the families whose network sees the padding."""
    rows = Condition(torch.zeros(2, 4, 3))
    assert Condition.cat([rows, rows]).mask is None
    assert [len(row) for row in rows.rows()] == [4, 4]
    both = Condition.cat([rows, Condition(torch.zeros(1, 2, 3))])
    assert both.seen().sum(1).tolist() == [4, 4, 2]


def test_a_repeated_condition_keeps_its_masks() -> None:
    """Rows of a repeated condition are masked as those that they repeat."""
    condition = Condition.of_rows([_row(3, 1.0), _row(1, 2.0)])
    repeated = Repeated.of(condition, 2)
    assert [len(row) for row in repeated[slice(1, 4)].rows()] == [3, 1, 1]
    assert repeated.with_tokens(condition.tokens)[slice(0, 1)].mask is not None
