"""Checkpoints in one file become folders with every bit of them, or nothing at all."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from jobs import exit_codes
from jobs.cli import main
from jobs.supervise.interrupts import Interrupted
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.convert import networks as networks_module
from pipeline.models import weights as weights_module
from pipeline.models.loading import load_model
from pipeline.models.probe import probe_model
from tests.models.small_hub import serving, use_hub
from tests.original_layout import Tensors, in_one_file, original_vae, stored
from tests.tiny_models import make_tiny_sd3, make_tiny_sdxl, make_tiny_stable_diffusion


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models, two of each kind: what was trained, and a base with other weights."""
    root = tmp_path_factory.mktemp("models")
    makes: dict[str, Any] = {"sd": make_tiny_stable_diffusion, "xl": make_tiny_sdxl}
    made = {
        f"{kind}{seed}": make(root / f"{kind}{seed}", seed=seed)
        for kind, make in makes.items()
        for seed in (0, 1)
    }
    return made | {"sd3": make_tiny_sd3(root / "sd3")}


def written(tensors: Tensors, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def converted(checkpoint: Path, target: Path, base: Path, *more: str) -> int:
    return main(["convert", str(checkpoint), str(target), "--base", str(base), *more])


def networks(folder: Path) -> dict[str, Tensors]:
    """The tensors of all networks of a folder, under names that any version gives them."""
    return {
        part.name: {k.removeprefix("text_model."): t for k, t in stored(folder, part.name).items()}
        for part in sorted(folder.iterdir())
        if list(part.glob("*.safetensors"))
    }


def check_equal(found: dict[str, Tensors], wanted: dict[str, Tensors], dtype: torch.dtype) -> None:
    assert found.keys() == wanted.keys()
    for part, tensors in wanted.items():
        assert found[part].keys() == tensors.keys(), part
        for name, tensor in tensors.items():
            assert found[part][name].dtype == dtype
            assert torch.equal(found[part][name], tensor.to(dtype)), f"{part}: {name}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("kind", "open_clip"), [("sd", False), ("sd", True), ("xl", False)], ids=["1.x", "2.x", "XL"]
)
def test_every_bit_comes_from_the_checkpoint(
    models: dict[str, Path], tmp_path: Path, kind: str, open_clip: bool, dtype: torch.dtype
) -> None:
    """The base has other weights; what is written is a model that loads and predicts."""
    trained = models[f"{kind}0"]
    tensors = in_one_file(trained, open_clip=open_clip)
    # Checkpoints in half precision keep some scalars in float32.
    tensors = {k: t if "logit_scale" in k else t.to(dtype) for k, t in tensors.items()}
    tensors["model_ema.diffusion_modelout0weight"] = torch.zeros(3)
    file = written(tensors, tmp_path / "some_lightning.safetensors")
    assert converted(file, tmp_path / "out", models[f"{kind}1"]) == 0
    check_equal(networks(tmp_path / "out"), networks(trained), dtype)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", file.name], "nothing beside it"
    model = Model(path=str(tmp_path / "out"), dtype="float32")
    info = probe_model(model)
    assert info.family == probe_model(Model(path=str(trained))).family
    assert info.distilled is not None, "the file's name says so"
    ours, theirs = (load_model(m, "cpu", Stage()) for m in (model, Model(path=str(trained))))
    if dtype == torch.float32:
        texts = ours.text.encode(["a cat"]), theirs.text.encode(["a cat"])
        assert torch.equal(texts[0].tokens, texts[1].tokens)
        latent = torch.ones(1, 4, 8, 8)
        level = theirs.schedule.level_at(0.5)
        assert torch.equal(
            ours.denoiser(latent, level, texts[0]), theirs.denoiser(latent, level, texts[1])
        )


def test_parts_come_from_the_base_where_asked(models: dict[str, Path], tmp_path: Path) -> None:
    """Many checkpoints are published without a VAE."""
    tensors = in_one_file(models["sd0"])
    bare = {k: t for k, t in tensors.items() if not k.startswith("first_stage_model")}
    file = written(bare, tmp_path / "a.safetensors")
    assert converted(file, tmp_path / "out", models["sd1"], "--from-base", "vae") == 0
    wanted = networks(models["sd0"]) | {"vae": networks(models["sd1"])["vae"]}
    check_equal(networks(tmp_path / "out"), wanted, torch.float32)
    record = json.loads((tmp_path / "out/conversion.json").read_text())
    assert record["from_base"] == ["vae"]
    assert record["from_checkpoint"] == ["unet", "text_encoder"]


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_vae_alone_becomes_a_folder_for_model_vae(
    models: dict[str, Path], tmp_path: Path, prefix: str
) -> None:
    tensors = original_vae(models["sd0"], prefix) | {"loss.logvar": torch.zeros(1)}
    file = written(tensors, tmp_path / "a.safetensors")
    assert converted(file, tmp_path / "out", models["sd1"]) == 0
    model = Model(path=str(models["sd1"]), vae=str(tmp_path / "out"), dtype="float32")
    vae = load_model(model, "cpu", Stage()).image_coder.vae
    for name, tensor in stored(models["sd0"], "vae").items():
        assert torch.equal(vae.state_dict()[name], tensor), name


def test_text_encoders_of_early_merges_are_read(models: dict[str, Path], tmp_path: Path) -> None:
    """They lack a level in the names, and their positions were rounded with the weights."""
    tensors = {k.replace(".text_model.", "."): t for k, t in in_one_file(models["sd0"]).items()}
    tensors["cond_stage_model.transformer.embeddings.position_ids"] = torch.zeros(1, 77).half()
    file = written(tensors, tmp_path / "a.safetensors")
    assert converted(file, tmp_path / "out", models["sd1"]) == 0
    check_equal(networks(tmp_path / "out"), networks(models["sd0"]), torch.float32)


def test_a_file_says_that_it_predicts_v(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    file = written(in_one_file(models["xl0"]) | flags, tmp_path / "a.safetensors")
    assert converted(file, tmp_path / "out", models["xl1"]) == 0
    assert probe_model(Model(path=str(tmp_path / "out"))).prediction_type == "v_prediction"
    scheduler = json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())
    assert (scheduler["rescale_betas_zero_snr"], scheduler["timestep_spacing"]) == (
        True,
        "trailing",
    )
    assert "prediction_type='v_prediction'" in capsys.readouterr().out


UNET, TEXT = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
NORM = f"{TEXT}final_layer_norm.weight"


def _without(tensors: Tensors, *prefixes: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def _wide(tensors: Tensors) -> Tensors:
    name = f"{UNET}input_blocks.0.0.weight"
    return tensors | {name: torch.cat([tensors[name], torch.zeros(len(tensors[name]), 5, 3, 3)], 1)}


REFUSED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "a LoRA": (
        lambda _: {"lora_unet_down.lora_up.weight": torch.zeros(2)},
        "give it as model.lora",
    ),
    "a LoRA of peft": (lambda _: {"unet.to_k.lora_A.weight": torch.zeros(2)}, "is a LoRA"),
    "a ControlNet": (lambda t: t | {"control_model.x": torch.zeros(2)}, "holds a ControlNet"),
    "EDM": (lambda t: t | {"edm_vpred.sigma_max": torch.zeros(1)}, "EDM's formulation"),
    "a refiner": (
        lambda t: t | {"conditioner.embedders.0.model.ln_final.weight": torch.zeros(2)},
        "SDXL's refiner",
    ),
    "SDXL": (
        lambda t: t | {"conditioner.embedders.0.transformer.x": torch.zeros(2)},
        "is SDXL, and --base=",
    ),
    "diffusers' names": (
        lambda _: {"down_blocks.0.resnets.0.norm1.weight": torch.zeros(2)},
        "in the names of diffusers",
    ),
    "another thing": (lambda _: {"weight": torch.zeros(2)}, "has no tensors of 'model.diffusion"),
    "inpainting": (_wide, "takes 9 channels"),
    "float8": (
        lambda t: t | {NORM: t[NORM].to(torch.float8_e4m3fn)},
        "1 tensors are quantized.*F8_E4M3",
    ),
    "no VAE": (lambda t: _without(t, "first_stage"), "no vae .*with --from-base vae"),
    "no text encoder": (lambda t: _without(t, TEXT), "no text_encoder .*--from-base text_encoder"),
    "positions alone": (
        lambda t: _without(t, TEXT) | {f"{TEXT}embeddings.position_ids": torch.zeros(1, 77)},
        "no text_encoder .*--from-base text_encoder",
    ),
    "half a network": (lambda t: _without(t, f"{UNET}output_blocks.1."), "its unet "),
    "a tensor less": (lambda t: _without(t, f"{UNET}out.2.bias"), "its unet lacks 1 .*conv_out"),
    "half a text encoder": (lambda t: _without(t, NORM), "its text_encoder lacks 1"),
    "half a VAE": (
        lambda t: _without(t, "first_stage_model.decoder.conv_out"),
        "its vae lacks 2 tensors",
    ),
    "more layers": (
        lambda t: t | {f"{UNET}output_blocks.9.0.in_layers.0.weight": torch.zeros(7)},
        "its unet has .* numbers, the base's",
    ),
    "another shape": (
        lambda t: t | {NORM: torch.zeros(48)},
        "its text_encoder does not fit the base's",
    ),
    "not a number": (
        lambda t: t | {f"{UNET}out.2.bias": torch.full((4,), torch.nan)},
        "not finite .conv_out.bias",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_checkpoint_that_is_something_else_is_refused(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """In a sentence that names the file, before or while it is converted; nothing is left."""
    change, message = REFUSED[case]
    file = written(change(in_one_file(models["sd0"])), tmp_path / "a.safetensors")
    check_refused(file, models["sd1"], capsys, message)


def check_refused(
    file: Path, base: Path, capsys: pytest.CaptureFixture[str], message: str, *more: str
) -> None:
    before = sorted(file.parent.iterdir())
    assert converted(file, file.parent / "out", base, *more) == exit_codes.BAD_CONFIG
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert re.search(message, said), said
    assert sorted(file.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ckpt", b"PK", "is pickled"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS"),
        ("a.safetensors", b"GGUF" + bytes(100), "is not safetensors"),
        ("a.safetensors", b"", "is not safetensors"),
        ("a\nb.safetensors", b"", r"a\\nb.safetensors'"),
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    message: str,
) -> None:
    (tmp_path / name).write_bytes(content)
    check_refused(tmp_path / name, models["sd0"], capsys, message)


def test_a_truncated_checkpoint_is_refused(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(in_one_file(models["sd0"]), tmp_path / "a.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    check_refused(file, models["sd1"], capsys, "is truncated")


@pytest.mark.parametrize(
    ("base", "more", "message"),
    [
        ("xl0", (), "is Stable Diffusion 1.x or 2.x, and --base="),
        ("sd3", (), "is stable-diffusion-3; allowed are"),
        ("none", (), "no such folder"),
        ("empty", (), "model_index.json"),
        ("sd1", ("--from-base", "tokenizer"), "--from-base='tokenizer'; allowed are unet, vae"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(
    models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    base: str,
    more: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    file = written(in_one_file(models["sd0"]), tmp_path / "a.safetensors")
    check_refused(file, models.get(base, tmp_path / base), capsys, message, *more)


def test_a_folder_with_something_in_it_is_left_as_it_is(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(in_one_file(models["sd0"]), tmp_path / "a.safetensors")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    check_refused(file, models["sd1"], capsys, "allowed is a new or an empty folder")


def test_a_full_disk_leaves_nothing(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file may grow beyond 100 kB here; the weights of a network do."""
    file = written(in_one_file(models["sd0"]), tmp_path / "a.safetensors")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code = converted(file, tmp_path / "out", models["sd1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == exit_codes.INCOMPLETE
    assert "File too large" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [Interrupted(), OSError("the neighbour is gone")])
def test_what_ends_a_conversion_leaves_nothing(
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    """It ends in its second network, when the first is written."""
    file = written(in_one_file(models["sd0"]), tmp_path / "a.safetensors")
    real = networks_module.network_of

    def network_of(checkpoint: Any, part: str, *rest: Any) -> Any:
        if part == "vae":
            assert list(tmp_path.glob(".out.*/unet/*.safetensors"))
            raise error
        return real(checkpoint, part, *rest)

    monkeypatch.setattr("pipeline.convert.folder.network_of", network_of)
    code = converted(file, tmp_path / "out", models["sd1"])
    assert code == (
        exit_codes.INTERRUPTED if isinstance(error, Interrupted) else exit_codes.INCOMPLETE
    )
    assert sorted(tmp_path.iterdir()) == [file]


def test_weights_that_were_not_written_as_they_are_are_found(
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bit flips on the disk before the folder gets its name."""
    file = written(in_one_file(models["sd0"]), tmp_path / "a.safetensors")
    real = weights_module.load_network

    def load_network(kind: Any, folder: Path, *rest: Any, **more: Any) -> Any:
        (weights,) = folder.glob("*.safetensors")
        content = weights.read_bytes()
        weights.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
        return real(kind, folder, *rest, **more)

    monkeypatch.setattr("pipeline.convert.folder.load_network", load_network)
    assert converted(file, tmp_path / "out", models["sd1"]) == exit_codes.INCOMPLETE
    assert "was not written as it is" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_checkpoint_as_model_path_names_the_command(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """The file itself, or a folder that holds nothing else, as many on the hub."""
    file = written(in_one_file(models["sd0"]), tmp_path / "a b.safetensors")
    with pytest.raises(ValueError, match=r"overpaint convert '.*a b.safetensors' FOLDER --base"):
        probe_model(Model(path=str(file)))
    with pytest.raises(ValueError, match=r"\(but a b.safetensors\).* overpaint convert"):
        probe_model(Model(path=str(tmp_path)))


def test_of_a_base_on_the_hub_only_what_is_taken_is_downloaded(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configs and tokenizers; the weights of the one part that shall come from it."""
    bare = _without(in_one_file(models["sd0"]), "first_stage_model")
    file = written(bare, tmp_path / "a.safetensors")
    with serving() as hub:
        use_hub(monkeypatch, hub, tmp_path / "hub")
        commit = hub.commit("an/owner", models["sd1"])
        more = ("--revision", "main", "--from-base", "vae")
        assert converted(file, tmp_path / "out", Path("an/owner"), *more) == 0
        weights = [path for path in hub.got("/resolve/") if path.endswith(".safetensors")]
    assert [path.rpartition("/resolve/")[2] for path in weights] == [
        f"{commit}/vae/diffusion_pytorch_model.safetensors"
    ]
    assert json.loads((tmp_path / "out/conversion.json").read_text())["base_commit"] == commit
    wanted = networks(models["sd0"]) | {"vae": networks(models["sd1"])["vae"]}
    check_equal(networks(tmp_path / "out"), wanted, torch.float32)
