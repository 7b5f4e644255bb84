"""Probing a model: what it finds out, and the errors for models that cannot be used."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.model import Model
from pipeline.models.model_files import BUNDLED_OVERRIDE
from pipeline.models.probe import probe_model
from tests.models.family_cases import CASES
from tests.tiny_models import make_tiny_sd3, make_tiny_sdxl, make_tiny_stable_diffusion

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def probe(folder: Path, *, hash_files: bool = True, **settings: object) -> object:
    return probe_model(Model(path=str(folder), **settings), hash_files=hash_files)


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_model_is_described(folder: Path) -> None:
    """Size, latent scale, channels and prediction type are read from the configs."""
    info = probe_model(Model(path=str(folder)))
    assert (info.family, info.prediction_type) == ("stable-diffusion", "epsilon")
    assert (info.native_size, info.latent_scale, info.latent_channels) == (32, 4, 4)
    assert info.size_for(Model()) == 32
    assert info.size_for(Model(size=64)) == 64
    assert (info.multiple, info.halvings) == (4, 1)
    assert info.sizes_for(Model(buckets="auto")).of((64, 48)) == (36, 28)
    assert info.sizes_for(Model(buckets="auto", size=64)).of((64, 48)) == (72, 56)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 36}, "model.size=36: for this model allowed are multiples of 8 up to 128"),
        ({"buckets": [[64, 36]]}, r"model.buckets: \[64, 36\]: .* multiples of 8 up to 128"),
        ({"buckets": [[16, 136]]}, r"model.buckets: \[16, 136\]: .* multiples of 8 up to 128"),
    ],
)
def test_sizes_that_a_model_does_not_allow_are_named(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    """Patches of 2 cells of 4 pixels, and a table of 16 x 16 positions."""
    folder = make_tiny_sd3(tmp_path / "model")
    with pytest.raises(ValueError, match=words):
        probe(folder, **settings)
    info = probe_model(Model(path=str(folder), buckets=[(128, 16), (64, 64)]))
    assert info.sizes_for(Model(buckets="auto", size=96)).of((400, 100)) == (128, 32)


def test_revision_is_a_hash_of_the_models_files(folder: Path) -> None:
    """One byte of a weight changes the revision; the folder's path and a model card do not."""
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
    """The variable's folder is used for "bundled"; the error names a folder that is missing."""
    monkeypatch.setenv(BUNDLED_OVERRIDE, str(folder))
    assert probe_model(Model()).folder == folder
    monkeypatch.setenv(BUNDLED_OVERRIDE, str(folder / "absent"))
    with pytest.raises(FileNotFoundError, match=r"model\.path='bundled': .*absent"):
        probe_model(Model())


@pytest.mark.parametrize("path", ["/no/such/folder", "./absent", "owner/name"])
def test_missing_model_is_named(path: str) -> None:
    """The error for a missing folder or hub model is one line with key, value, what is allowed."""
    with pytest.raises(FileNotFoundError, match=f"model.path='{path}'.*no such folder") as caught:
        probe_model(Model(path=path))
    assert "\n" not in str(caught.value)


def test_folder_that_is_not_a_model_is_an_error(tmp_path: Path) -> None:
    """A folder without model_index.json is refused; the error mentions a checkpoint in it."""
    with pytest.raises(ValueError, match=r"has no model_index\.json; allowed is a folder"):
        probe(tmp_path)
    (tmp_path / "sd.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no model_index\.json \(but sd\.ckpt\)"):
        probe(tmp_path)
    with pytest.raises(ValueError, match=r"a file; allowed is a folder"):
        probe(tmp_path / "sd.ckpt")


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused_by_name(folder: Path, component: str) -> None:
    """A component with only .bin weights is refused; the error names the file."""
    for weights in (folder / component).glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=rf"{component}/ has pickled weights only \(\w+\.bin\)"):
        probe(folder)
    for weights in (folder / component).glob("*.bin"):
        weights.unlink()
    with pytest.raises(ValueError, match=f"{component}/ has no weights"):
        probe(folder)


def test_a_missing_component_is_named(folder: Path) -> None:
    """A folder without a tokenizer is refused."""
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
    """The error names the value of the unsupported setting and what is allowed."""
    edit_json(folder / file, **values)
    with pytest.raises(ValueError, match=message) as caught:
        probe(folder)
    assert str(caught.value).startswith("model.path=")


EVERY_FAMILY = (
    *(make_tiny_stable_diffusion, make_tiny_sdxl, make_tiny_sd3),
    *(case.make for case in CASES.values()),
)
NOT_ALWAYS_STORED = ("trained_betas", "pos_embed_max_size", "shift_terminal", "flow_shift")
ODD: tuple[object, ...] = ([8, 8], [], {}, "8", "x", None, True, -1, 0, 0.5, 1e30)


@pytest.mark.sweep
@pytest.mark.parametrize("make", EVERY_FAMILY)
def test_values_of_another_kind_are_no_tracebacks(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """Every key of every config with odd values: a model is described, or refused."""
    folder = make(tmp_path / "model")
    for path in (folder / "model_index.json", *folder.glob("*/*config.json")):
        text = path.read_text()
        for key in (*json.loads(text), *NOT_ALWAYS_STORED):
            for value in ODD:
                path.write_text(text)
                edit_json(path, **{key: value})
                with contextlib.suppress(ValueError):
                    probe(folder, hash_files=False)
        path.write_text(text)


@pytest.mark.parametrize(
    ("file", "key", "value", "allowed"),
    [
        ("vae/config.json", "latent_channels", "four", "a whole number of 1 or more"),
        ("vae/config.json", "block_out_channels", None, "a list of numbers"),
        ("unet/config.json", "patch_size", 0, "a whole number of 1 or more"),
        ("scheduler/scheduler_config.json", "beta_start", None, "a number above 0"),
        ("scheduler/scheduler_config.json", "steps_offset", 0.5, "a whole number"),
        ("scheduler/scheduler_config.json", "max_shift", 21, "a number from 0 to 20"),
        ("vae/config.json", "temperal_downsample", True, "a list of true and false"),
        ("vae/config.json", "scaling_factor", 0, "a number above 0"),
        ("vae/config.json", "scaling_factor", float("inf"), "a number above 0"),
        ("vae/config.json", "shift_factor", float("nan"), "a number"),
        ("vae/config.json", "latents_std", [1.0, 0.0], "a list of numbers above 0"),
    ],
)
def test_a_value_of_another_kind_is_named(
    folder: Path, file: str, key: str, value: object, allowed: str
) -> None:
    """File, key, value and what is allowed, instead of a traceback."""
    edit_json(folder / file, **{key: value})
    with pytest.raises(
        ValueError, match=re.escape(f"{file}: {key}={value!r}; allowed is {allowed}") + "$"
    ):
        probe(folder)


def test_size_must_suit_the_latent_grid(folder: Path) -> None:
    """The error for a size that does not divide into latent cells names the allowed multiple."""
    with pytest.raises(ValueError, match=r"model\.size=30: .* multiples of 4"):
        probe(folder, size=30)


def test_broken_json_is_named(folder: Path) -> None:
    """A truncated config is an error with its path, not a traceback of the parser."""
    (folder / "unet/config.json").write_text("{")
    with pytest.raises(ValueError, match=r"model\.path: .*unet/config\.json"):
        probe(folder)


@pytest.mark.parametrize(
    ("make", "family", "prediction_type", "channels"),
    [
        (make_tiny_sdxl, "stable-diffusion-xl", "epsilon", 4),
        (make_tiny_sd3, "stable-diffusion-3", "flow", 16),
    ],
)
def test_other_families_are_described(
    tmp_path: Path, make: Callable[[Path], Path], family: str, prediction_type: str, channels: int
) -> None:
    """The pipeline class gives the family; the network's config gives the image size."""
    info = probe_model(Model(path=str(make(tmp_path / "model"))))
    assert (info.family, info.prediction_type) == (family, prediction_type)
    assert (info.native_size, info.latent_scale, info.latent_channels) == (32, 4, channels)
    assert info.components == tuple(
        name for name in info.components if (info.folder / name).is_dir()
    )
    assert len(info.revision) == 64


def test_sd3_without_t5_is_another_revision(tmp_path: Path) -> None:
    """T5 may be left out of the index; if it is listed but missing, that is an error."""
    with_t5, without = make_tiny_sd3(tmp_path / "t5"), make_tiny_sd3(tmp_path / "no", t5=False)
    infos = [probe_model(Model(path=str(folder))) for folder in (with_t5, without)]
    assert [set(info.components) & {"text_encoder_3", "tokenizer_3"} for info in infos] == [
        {"text_encoder_3", "tokenizer_3"},
        set(),
    ]
    assert infos[0].revision != infos[1].revision
    shutil.rmtree(with_t5 / "text_encoder_3")
    with pytest.raises(ValueError, match="has no text_encoder_3/; its stable-diffusion-3 model"):
        probe(with_t5)


@pytest.mark.parametrize(
    ("make", "file", "values", "message"),
    [
        (make_tiny_sdxl, "model_index.json", {"requires_aesthetics_score": True}, "SDXL refiner"),
        (
            make_tiny_sdxl,
            "unet/config.json",
            {"addition_embed_type": None},
            "addition_embed_type=None; allowed is 'text_time'",
        ),
        (make_tiny_sdxl, "unet/config.json", {"time_cond_proj_dim": 8}, "guidance is distilled"),
        (make_tiny_sdxl, "vae/config.json", {"latents_mean": [0.0] * 4}, "latents_mean"),
        (make_tiny_sdxl, "vae/config.json", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
        (
            make_tiny_sdxl,
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMEulerScheduler"},
            "scheduler class EDMEulerScheduler; allowed are those of a schedule of betas",
        ),
        (
            make_tiny_sdxl,
            "scheduler/scheduler_config.json",
            {"beta_schedule": "exp"},
            "beta_schedule='exp'.*allowed are linear",
        ),
        (
            make_tiny_sd3,
            "scheduler/scheduler_config.json",
            {"_class_name": "DDIMScheduler"},
            "DDIMScheduler; allowed are FlowMatchEuler",
        ),
        (
            make_tiny_sd3,
            "scheduler/scheduler_config.json",
            {"use_karras_sigmas": True},
            "use_karras_sigmas=True",
        ),
        (
            make_tiny_sd3,
            "transformer/config.json",
            {"quantization_config": {"load_in_4bit": True}},
            "transformer/ is quantized",
        ),
    ],
)
def test_unsupported_models_of_other_families_are_refused(
    tmp_path: Path, make: Callable[[Path], Path], file: str, values: dict, message: str
) -> None:
    """A model that needs something unsupported is refused before any weight is loaded."""
    folder = make(tmp_path / "model")
    edit_json(folder / file, **values)
    with pytest.raises(ValueError, match=message) as caught:
        probe(folder)
    assert str(caught.value).startswith("model.path=")
    assert "\n" not in str(caught.value)


def test_size_must_suit_the_transformers_patches(tmp_path: Path) -> None:
    """The size must divide into patches of two latent cells, up to the number of positions."""
    folder = make_tiny_sd3(tmp_path / "model")
    assert probe_model(Model(path=str(folder), size=128)).native_size == 32
    for size in (36, 136):
        with pytest.raises(ValueError, match=rf"size={size}: .* multiples of 8 up to 128$"):
            probe(folder, size=size)


def test_pickles_are_refused_in_every_text_encoder(tmp_path: Path) -> None:
    """The second and third text encoders are checked like the first."""
    for component in ("text_encoder_2", "text_encoder_3", "transformer"):
        folder = make_tiny_sd3(tmp_path / component)
        for weights in (folder / component).glob("*.safetensors"):
            weights.rename(weights.with_suffix(".bin"))
        with pytest.raises(ValueError, match=rf"{component}/ has pickled weights only"):
            probe(folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], str]:
    """A hub cache that holds a model's files as commit ``COMMIT``, the head of main."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def fill(folder: Path) -> str:
        cached = tmp_path / "hub/models--owner--name"
        shutil.copytree(folder, cached / "snapshots" / COMMIT)
        (cached / "refs").mkdir()
        (cached / "refs/main").write_text(COMMIT)
        return "owner/name"

    return fill


def test_a_branch_of_a_hub_model_is_resolved_to_its_commit(
    hub: Callable[[Path], str], tmp_path: Path
) -> None:
    """The commit is recorded for a branch, a commit and the default revision."""
    name = hub(make_tiny_sd3(tmp_path / "model"))
    for revision in ("main", None, COMMIT):
        info = probe_model(Model(path=name, revision=revision))
        assert (info.revision, info.family) == (COMMIT, "stable-diffusion-3")
        assert info.folder.name == COMMIT
    with pytest.raises(FileNotFoundError, match=r"revision='v2': no such folder, it is not in"):
        probe_model(Model(path=name, revision="v2"))
