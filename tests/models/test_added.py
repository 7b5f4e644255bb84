"""LoRA files and another VAE: what they change, what is refused, and how rows name them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.config.config import Config
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.models.probe import probe_model
from pipeline.plan.plan import make_plan
from tests.samples import raw_sample, write_shard
from tests.tiny_models import make_tiny_sd3, make_tiny_sdxl, make_tiny_stable_diffusion

RANK, WEIGHT = 2, 0.75
ALPHAS = (3.0, 1.0)  # of linear layers and convolutions
MADE: dict[str, Callable[[Path], Path]] = {
    "sd": make_tiny_stable_diffusion,
    "sdxl": make_tiny_sdxl,
    "sd3": make_tiny_sd3,
}
KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


def load(folder: Path, **settings: Any) -> LatentDiffusion:
    return load_model(Model(path=str(folder), **settings), "cpu", Stage())


def networks_of(model: LatentDiffusion) -> dict[str, nn.Module]:
    """The network and the text encoders, by their folders."""
    towers = {tower.name: tower.encoder for tower in model.text.towers}
    return {model.info.components[0]: model.unbatched.network, **towers}


def layers_of(model: LatentDiffusion, *, convolutions: bool) -> dict[str, Tensor]:
    """Weights that a LoRA may change: attention, and residual convolutions of a UNet."""
    found = {}
    for part, network in networks_of(model).items():
        for name, module in network.named_modules():
            linear = isinstance(module, nn.Linear) and name.endswith(
                ("to_q", "to_out.0", "q_proj", "out_proj")
            )
            residual = isinstance(module, nn.Conv2d) and name.endswith("resnets.0.conv1")
            if (linear or (residual and convolutions)) and part != "text_encoder_3":
                found[f"{part}.{name}"] = module.weight.detach().clone()
    return found


def factors_of(weights: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Random factors (down, up) for each weight."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    factors = {}
    for name, weight in weights.items():
        tail = weight.shape[2:]
        up = drawn(weight.shape[0], RANK, *(1 for _ in tail))
        factors[name] = (drawn(RANK, weight.shape[1], *tail), up)
    return factors


def diffusers_file(factors: dict[str, tuple[Tensor, Tensor]], path: Path) -> tuple[float, float]:
    """Writes the format of diffusers; returns the scales of linear layers and convolutions."""
    tensors = {}
    for name, (down, up) in factors.items():
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = down, up
    save_file(tensors, path)
    return 1.0, 1.0


def kohya_file(factors: dict[str, tuple[Tensor, Tensor]], path: Path) -> tuple[float, float]:
    """Writes the format of kohya's scripts, with alphas; returns the scales that they imply."""
    two = any(name.startswith("text_encoder_2.") for name in factors)
    tensors = {}
    for name, (down, up) in factors.items():
        part, _, layer = name.partition(".")
        prefix = KOHYA[part] if two or part == "unet" else "lora_te"
        inner = f"text_model_{layer.removeprefix('text_model.')}" if "text" in part else layer
        stem = f"{prefix}_{inner}".replace(".", "_")
        tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = down, up
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHAS[down.ndim == 4])
    save_file(tensors, path)
    return ALPHAS[0] / RANK, ALPHAS[1] / RANK


@pytest.mark.parametrize(
    ("family", "write", "convolutions"),
    [
        ("sd", diffusers_file, True),
        ("sd", kohya_file, True),
        ("sdxl", diffusers_file, True),
        ("sdxl", kohya_file, False),
        ("sd3", diffusers_file, False),
    ],
)
def test_a_lora_is_fused_into_every_layer_that_it_names(
    tmp_path: Path, family: str, write: Any, convolutions: bool
) -> None:
    """W + weight * alpha / rank * B A in network and text encoders, and no other weight changes."""
    folder = MADE[family](tmp_path / "model")
    plain = load(folder)
    weights = layers_of(plain, convolutions=convolutions)
    factors = factors_of(weights)
    scales = write(factors, tmp_path / "style.safetensors")
    probe_model(Model(path=str(folder), lora=[{"path": str(tmp_path / "style.safetensors")}]))
    fused = load(folder, lora=[{"path": str(tmp_path / "style.safetensors"), "weight": WEIGHT}])
    before = {
        f"{p}.{n}": t for p, net in networks_of(plain).items() for n, t in net.state_dict().items()
    }
    after = {
        f"{p}.{n}": t for p, net in networks_of(fused).items() for n, t in net.state_dict().items()
    }
    assert before.keys() == after.keys()  # nothing of peft is left
    assert len(factors) > 4
    for name, tensor in before.items():
        pair = factors.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if pair is None:
            assert torch.equal(after[name], tensor), name
            continue
        change = (pair[1].flatten(1) @ pair[0].flatten(1)).view_as(tensor)
        scale = scales[tensor.ndim == 4]
        torch.testing.assert_close(
            after[name], tensor + WEIGHT * scale * change, rtol=1e-5, atol=1e-6, msg=name
        )
    assert not any(p.requires_grad for net in networks_of(fused).values() for p in net.parameters())


def test_several_loras_add_up(tmp_path: Path, folder: Path) -> None:
    """Two files give what one with both changes gives; a weight of 0 changes nothing."""
    plain = load(folder)
    weights = layers_of(plain, convolutions=False)
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    halves = list(factors_of(weights).items())
    diffusers_file(dict(halves[::2]), paths[0])
    diffusers_file(dict(halves[1::2]), paths[1])
    diffusers_file(dict(halves), tmp_path / "both.safetensors")
    entries = [{"path": str(path)} for path in paths]
    found = layers_of(load(folder, lora=entries), convolutions=False)
    wanted = layers_of(
        load(folder, lora=[{"path": str(tmp_path / "both.safetensors")}]), convolutions=False
    )
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(weight, weights[name])
    none = load(folder, lora=[entries[0] | {"weight": 0.0}])
    for name, weight in layers_of(none, convolutions=False).items():
        assert torch.equal(weight, weights[name])


def _keys_of_another_model(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("up_blocks.1", "up_blocks.7"): value for name, value in tensors.items()}


def _one_key_more(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"unet.mid_block.attentions.9.to_q.lora_A.weight": torch.zeros(2, 2)}


def _another_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"transformer.blocks.0.to_q.lora_A.weight": torch.zeros(2, 2)}


def _another_kind(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = next(iter(tensors)).partition(".lora_")[0]
    return tensors | {f"{name}.hada_w1_a.lora": torch.zeros(2, 2)}


def _dora(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"unet.mid_block.dora_scale": torch.zeros(2)}


def _not_of_diffusers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"lora_unet_what.alpha": torch.ones(1)}


# Keys whose layer only diffusers' conversions tell.
FOUND_WHEN_LOADED = (_another_kind, _not_of_diffusers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_keys_of_another_model, r"up_blocks\.7\.attentions.*and \d+ more"),
        (_one_key_more, r"1 of \d+ keys match nothing of this model: .*attentions\.9"),
        (_another_part, r"1 of \d+ keys match nothing of this model: transformer\.blocks"),
        (_another_kind, r"1 of \d+ keys match nothing of this model: .*hada_w1_a"),
        (_dora, "is a DoRA.*dora_scale.*; allowed: LoRA"),
        (lambda tensors: {}, "0 of 0 keys"),
        (_not_of_diffusers, "its keys are no LoRA of Stable"),
    ],
)
def test_keys_that_match_nothing_are_an_error(
    tmp_path: Path, folder: Path, change: Any, message: str
) -> None:
    """The error names the file and the keys, and most are found before any weights are loaded."""
    path = tmp_path / "style.safetensors"
    diffusers_file(factors_of(layers_of(load(folder), convolutions=False)), path)
    save_file(change(load_file(path)), path)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder, lora=[{"path": str(path)}])
    early = change not in FOUND_WHEN_LOADED
    with pytest.raises(ValueError, match=message) if early else nullcontext():
        probe_model(Model(path=str(folder), lora=[{"path": str(path)}]))
    assert str(caught.value).startswith(f"model.lora: {path}")
    assert "\n" not in str(caught.value)


def test_kohyas_keys_of_another_model_are_found_at_the_start(tmp_path: Path, folder: Path) -> None:
    """Where they name diffusers' blocks; those of the original code are left to the actor."""
    path = tmp_path / "style.safetensors"
    kohya_file(factors_of(layers_of(load(folder), convolutions=True)), path)
    tensors = load_file(path)
    probe_model(Model(path=str(folder), lora=[{"path": str(path)}]))
    save_file({key.replace("up_blocks_1", "up_blocks_7"): t for key, t in tensors.items()}, path)
    with pytest.raises(
        ValueError, match=r"keys match nothing of this model: lora_unet_up_blocks_7"
    ):
        probe_model(Model(path=str(folder), lora=[{"path": str(path)}]))
    original = {"lora_unet_input_blocks_4_1_proj_in.alpha": torch.ones(1)}
    save_file(original, path)
    probe_model(Model(path=str(folder), lora=[{"path": str(path)}]))


def test_a_lora_is_a_safetensors_file(tmp_path: Path, folder: Path) -> None:
    """A folder with several needs a choice; pickles, pointers and cut files are refused."""

    def refused(match: str, **entry: Any) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            probe_model(Model(path=str(folder), lora=[entry]))

    styles = tmp_path / "styles"
    styles.mkdir()
    refused(r"model\.lora\[0\]\.path=.*holds no safetensors", path=str(styles))
    for name in ("a", "b"):
        save_file({"x": torch.zeros(2)}, styles / f"{name}.safetensors")
    refused(r"holds 2 safetensors; model\.lora\[0\]\.file says which of a\.", path=str(styles))
    refused(r"file='c': no such safetensors", path=str(styles), file="c")
    entry = {"path": str(styles), "file": "b.safetensors"}
    (found,) = probe_model(Model(path=str(folder), lora=[entry])).loras
    assert found.path == styles / "b.safetensors"
    refused("no such folder", path=str(tmp_path / "absent"))
    refused("asks for " + "0" * 64, **entry, revision="0" * 64)
    (styles / "b.safetensors").write_bytes((styles / "b.safetensors").read_bytes()[:-1])
    refused("is truncated", **entry)
    (tmp_path / "style.pt").write_bytes(b"pickle")
    refused("holds no safetensors", path=str(tmp_path / "style.pt"))


@pytest.fixture
def added(tmp_path: Path, tiny_model_folder: Path) -> Callable[..., Config]:
    """A configuration of a run with a LoRA and another VAE."""
    path = tmp_path / "lcm-style.safetensors"
    diffusers_file(factors_of(layers_of(load(tiny_model_folder), convolutions=False)), path)
    other = make_tiny_stable_diffusion(tmp_path / "other", seed=1)
    shutil.move(other / "vae", tmp_path / "vae")
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])

    def made(**model: Any) -> Config:
        own = {"path": str(tiny_model_folder), "size": 32, "lora": [{"path": str(path)}]}
        return Config.model_validate(
            {
                "input": {"shards": f"{tmp_path}/in/*.tar"},
                "output": {"path": f"{tmp_path}/out"},
                "model": own | {"vae": str(tmp_path / "vae")} | model,
            }
        )

    return made


def test_rows_and_fingerprint_name_what_is_added(
    added: Callable[..., Config], tmp_path: Path
) -> None:
    """By the file's sha256 and its weight; without additions nothing is appended."""
    plan = make_plan(added(), "cpu")
    sha256 = hashlib.sha256((tmp_path / "lcm-style.safetensors").read_bytes()).hexdigest()
    base, lora, vae = plan.model.content.split("+")
    assert base == plan.model.revision
    assert lora == f"lora:{sha256}@1"
    assert vae == f"vae:{plan.config.model.vae_revision}"
    assert plan.fingerprint_inputs["model"]["content"] == plan.model.content
    assert plan.fingerprint_inputs["code"]["peft"]
    prints = {plan.fingerprint}
    half = {"path": plan.config.model.lora[0].path, "weight": 0.5}
    others: tuple[dict[str, Any], ...] = ({"lora": []}, {"vae": None}, {"lora": [half]})
    for other in others:
        prints.add(make_plan(added(**other), "cpu").fingerprint)
    assert len(prints) == 4
    without = make_plan(added(lora=[], vae=None), "cpu")
    assert without.model.content == without.model.revision
    assert not {"lora", "vae", "vae_revision"} & without.fingerprint_inputs["model"].keys()
    assert "peft" not in without.fingerprint_inputs["code"]


def test_a_worker_refuses_other_files_than_the_drivers(
    added: Callable[..., Config], tmp_path: Path
) -> None:
    """The plan's configuration holds the hashes that the driver found."""
    config = make_plan(added(), "cpu").config
    load_model(config.model, "cpu", Stage())
    path = tmp_path / "lcm-style.safetensors"
    save_file({name: 2.0 * value for name, value in load_file(path).items()}, path)
    with pytest.raises(ValueError, match=r"model\.lora\[0\]\.path=.*revision asks for"):
        load_model(config.model, "cpu", Stage())


def test_a_name_tells_a_few_step_lora(added: Callable[..., Config]) -> None:
    """Warnings about steps and guidance then name it."""
    distilled = probe_model(added().model).distilled
    assert distilled is not None
    assert distilled.kind == "lcm"


def test_another_vae_takes_the_models_place(added: Callable[..., Config], tmp_path: Path) -> None:
    """Its weights and its config are used, whether the folder is the VAE's or a model's."""
    config = tmp_path / "vae/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 2.0}))
    shutil.copytree(tmp_path / "vae", tmp_path / "whole/vae")
    stored = load_file(tmp_path / "vae/diffusion_pytorch_model.safetensors")
    for path in ("vae", "whole"):
        model = load(Path(added().model.path), vae=str(tmp_path / path))
        assert model.image_coder.scale == 2.0
        for name, tensor in model.image_coder.vae.state_dict().items():
            assert torch.equal(tensor, stored[name])
    assert "vae" not in model.info.variants  # the model's own is neither hashed nor downloaded
    assert not [name for name in model.info.files if name.startswith("vae/")]


def test_another_vae_must_suit_the_network(tmp_path: Path, folder: Path) -> None:
    """Its class and its channels are checked; the model's own folder may be absent."""
    other = make_tiny_sd3(tmp_path / "sd3")
    with pytest.raises(ValueError, match="4 channels where the VAE has 16"):
        probe_model(Model(path=str(folder), vae=str(other)))
    with pytest.raises(ValueError, match=r"model\.vae=.*has no weights"):
        probe_model(Model(path=str(folder), vae=str(tmp_path)))
    shutil.move(folder / "vae", tmp_path / "vae")
    assert probe_model(Model(path=str(folder), vae=str(tmp_path / "vae"))).latent_channels == 4
    with pytest.raises(ValueError, match="has no vae/"):
        probe_model(Model(path=str(folder)))


def test_a_lora_is_named_once() -> None:
    """Two entries of one file are one with another weight; a VAE's revision needs a VAE."""
    with pytest.raises(ValueError, match="'a/b' is named twice"):
        Model.model_validate({"lora": [{"path": "a/b"}, {"path": "a/b", "weight": 0.5}]})
    with pytest.raises(ValueError, match=r"only with model\.vae"):
        Model(vae_revision="main")
