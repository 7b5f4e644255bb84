"""Probing a model: what is found, and what a user is told when it cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.models.model_files import BUNDLED_OVERRIDE
from pipeline.models.probe import probe_model
from pipeline.words.config import Model


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def probe(folder: Path, **settings: object) -> object:
    return probe_model(Model(path=str(folder), **settings))


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_model_is_described(folder: Path) -> None:
    """Size, latent scale, channels and prediction type are read from the configs."""
    info = probe_model(Model(path=str(folder)))
    assert (info.family, info.prediction_type) == ("stable-diffusion", "epsilon")
    assert (info.native_size, info.latent_scale, info.latent_channels) == (32, 4, 4)
    assert info.size_for(Model()) == 32
    assert info.size_for(Model(size=64)) == 64


def test_revision_is_a_hash_of_what_makes_the_model(folder: Path) -> None:
    """One byte of a weight changes it; where the folder lies and a model card do not."""
    before = probe_model(Model(path=str(folder))).revision
    assert len(before) == 64
    (folder / "README.md").write_text("a card")
    moved = folder.rename(folder.with_name("moved"))
    assert probe_model(Model(path=str(moved))).revision == before
    weights = moved / "unet/diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert probe_model(Model(path=str(moved))).revision != before
    assert probe_model(Model(path=str(moved)), hash_files=False).revision == ""


def test_bundled_model_can_be_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable's folder stands for "bundled"; one that is absent is named."""
    monkeypatch.setenv(BUNDLED_OVERRIDE, str(folder))
    assert probe_model(Model()).folder == folder
    monkeypatch.setenv(BUNDLED_OVERRIDE, str(folder / "absent"))
    with pytest.raises(FileNotFoundError, match=r"model\.path='bundled': .*absent"):
        probe_model(Model())


@pytest.mark.parametrize("path", ["/no/such/folder", "./absent", "owner/name"])
def test_missing_model_is_named(path: str) -> None:
    """No folder and, offline, no hub model: one line with key, value and what is allowed."""
    with pytest.raises(FileNotFoundError, match=f"model.path='{path}'.*no such folder") as caught:
        probe_model(Model(path=path))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    """Without model_index.json a folder is no model; a checkpoint lying there is mentioned."""
    with pytest.raises(ValueError, match=r"has no model_index\.json; allowed is a folder"):
        probe(tmp_path)
    (tmp_path / "sd.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no model_index\.json \(but sd\.ckpt\)"):
        probe(tmp_path)
    with pytest.raises(ValueError, match=r"a file; allowed is a folder"):
        probe(tmp_path / "sd.ckpt")


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused_by_name(folder: Path, component: str) -> None:
    """A component with .bin weights only is not read; the message names the file."""
    for weights in (folder / component).glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=rf"{component}/ has pickled weights only \(\w+\.bin\)"):
        probe(folder)
    for weights in (folder / component).glob("*.bin"):
        weights.unlink()
    with pytest.raises(ValueError, match=f"{component}/ has no weights"):
        probe(folder)


def test_a_missing_component_is_named(folder: Path) -> None:
    """A folder without a tokenizer is not complete."""
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(ValueError, match="has no tokenizer/"):
        probe(folder)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("model_index.json", {"_class_name": "AudioLDMPipeline"}, "class AudioLDM.*allowed are"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "'flow'; allowed are eps"),
        ("unet/config.json", {"in_channels": 9}, "9 channels.*inpainting"),
    ],
)
def test_unsupported_models_are_refused(
    folder: Path, file: str, values: dict, message: str
) -> None:
    """Another pipeline class, prediction type or number of channels: the value and what goes."""
    edit_json(folder / file, **values)
    with pytest.raises(ValueError, match=message) as caught:
        probe(folder)
    assert str(caught.value).startswith("model.path=")


def test_size_must_suit_the_latent_grid(folder: Path) -> None:
    """A size that the VAE cannot divide is refused with the multiple that is allowed."""
    with pytest.raises(ValueError, match=r"model\.size=30: .* multiples of 4"):
        probe(folder, size=30)


def test_broken_json_is_named(folder: Path) -> None:
    """A config that is cut short is an error with its path, not a traceback of the parser."""
    (folder / "unet/config.json").write_text("{")
    with pytest.raises(ValueError, match=r"model\.path: .*unet/config\.json"):
        probe(folder)
