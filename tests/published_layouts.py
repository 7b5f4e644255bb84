"""Folders laid out as published checkpoints are, with small random weights.

Files that must not be opened hold no weights at all, so that a test fails if one is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel

from tests.tiny_models import BETAS, make_tiny_sd3, make_tiny_sdxl, make_tiny_stable_diffusion

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
GARBAGE = b"not to be opened"


def make_layout(name: str, folder: Path) -> Path:
    """Writes the layout ``name``, a key of ``LAYOUTS``, into a new folder."""
    LAYOUTS[name](folder)
    return folder


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _garbage(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(GARBAGE)


def _with_checker(folder: Path) -> None:
    """The safety checker, which is listed in the index and never loaded here."""
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    extractor = ["transformers", "CLIPImageProcessor"]
    _edit(folder / "model_index.json", safety_checker=checker, feature_extractor=extractor)
    _garbage(folder, "safety_checker/model.safetensors", "safety_checker/pytorch_model.bin")


def _vocabulary_and_merges_only(tokenizer: Path) -> None:
    """As older versions of transformers saved it."""
    fast = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in fast["merges"]]
    (tokenizer / "vocab.json").write_text(json.dumps(fast["vocab"]))
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (tokenizer / "tokenizer.json").unlink()


def _with_position_ids(folder: Path) -> None:
    path = folder / "text_encoder/model.safetensors"
    tensors = load_file(path) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(tensors, path, metadata={"format": "pt"})


def _with_old_attention_names(folder: Path) -> None:
    """The VAE's attention as diffusers named it before 0.18: other names, and the same tensors."""
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    tensors = {}
    for name, tensor in load_file(path).items():
        for new, old in OLD_NAMES.items():
            if f"mid_block.attentions.0.{new}." in name:
                name = name.replace(new, old)
        tensors[name] = tensor
    save_file(tensors, path, metadata={"format": "pt"})


def _sd_14(folder: Path) -> None:
    make_tiny_stable_diffusion(folder)
    PNDMScheduler(**BETAS, skip_prk_steps=True).save_pretrained(folder / "scheduler")
    _with_checker(folder)
    _with_position_ids(folder)
    _vocabulary_and_merges_only(folder / "tokenizer")
    _garbage(folder, "text_encoder/pytorch_model.bin", "unet/diffusion_pytorch_model.bin")


def _sd_15(folder: Path) -> None:
    _sd_14(folder)
    _with_old_attention_names(folder)
    network = "diffusion_pytorch_model"
    _garbage(folder, "v1-5-pruned.ckpt", "v1-5-pruned-emaonly.safetensors", "v1-inference.yaml")
    _garbage(folder, f"unet/{network}.fp16.safetensors", f"unet/{network}.non_ema.safetensors")
    _garbage(folder, f"unet/{network}.non_ema.bin", f"vae/{network}.fp16.safetensors")
    _garbage(folder, "text_encoder/model.fp16.safetensors")


def _sd_21(folder: Path) -> None:
    make_tiny_stable_diffusion(folder, "v_prediction")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    settings = {name: unet.config[name] for name in ("block_out_channels", "down_block_types")}
    settings |= {name: unet.config[name] for name in ("up_block_types", "norm_num_groups")}
    torch.manual_seed(0)
    UNet2DConditionModel(
        **settings,
        sample_size=8,
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        upcast_attention=True,
    ).save_pretrained(folder / "unet")
    _edit(folder / "unet/config.json", sample_size=[8, 8])  # as some converters write it


def _fine_tune(folder: Path) -> None:
    make_tiny_stable_diffusion(folder)
    EulerAncestralDiscreteScheduler(**BETAS).save_pretrained(folder / "scheduler")
    _edit(folder / "model_index.json", safety_checker=[None, None], feature_extractor=[None, None])
    _vocabulary_and_merges_only(folder / "tokenizer")
    _garbage(folder, "fine-tune.safetensors")


def _sdxl(folder: Path) -> None:
    make_tiny_sdxl(folder)
    _edit(folder / "vae/config.json", force_upcast=False)
    _garbage(folder, "sd_xl_base_1.0.safetensors", "vae_1_0/diffusion_pytorch_model.safetensors")
    for component in ("unet", "vae"):
        _garbage(folder, f"{component}/diffusion_pytorch_model.fp16.safetensors")
    for component in ("text_encoder", "text_encoder_2"):
        _garbage(folder, f"{component}/model.fp16.safetensors", f"{component}/model.onnx")


def _sdxl_sharded(folder: Path) -> None:
    make_tiny_sdxl(folder)
    _reshard(folder / "unet", UNet2DConditionModel)


def _sdxl_fp16_only(folder: Path) -> None:
    make_tiny_sdxl(folder)
    for path in folder.glob("*/*.safetensors"):
        tensors = {name: tensor.half() for name, tensor in load_file(path).items()}
        path.unlink()
        save_file(tensors, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})


def _sd3(folder: Path) -> None:
    make_tiny_sd3(folder)
    _reshard(folder / "text_encoder_3", T5EncoderModel)
    stem = "text_encoder_3/model.fp16"
    _garbage(folder, f"{stem}-00001-of-00002.safetensors", f"{stem}-00002-of-00002.safetensors")
    _garbage(folder, "text_encoder_3/model.safetensors.index.fp16.json")
    _garbage(folder, "sd3_medium.safetensors", "transformer/diffusion_pytorch_model.fp16.bin")


def _sd3_without_t5(folder: Path) -> None:
    make_tiny_sd3(folder, t5=False)


def _sd35_medium(folder: Path) -> None:
    _sd3(folder)
    _transformer(folder, dual_attention_layers=(0,))


def _sd35_large(folder: Path) -> None:
    _sd3(folder)
    _transformer(folder, num_layers=3)
    _reshard(folder / "transformer", SD3Transformer2DModel)


def _transformer(folder: Path, **settings: Any) -> None:
    old = SD3Transformer2DModel.load_config(folder / "transformer")
    given = {name: value for name, value in old.items() if not name.startswith("_")} | settings
    torch.manual_seed(0)
    network = SD3Transformer2DModel(**given)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)  # so that the texts matter
    network.save_pretrained(folder / "transformer")


def _reshard(folder: Path, kind: Any) -> None:
    """Splits the weights into a few files with an index."""
    network = kind.from_pretrained(folder)
    num_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    for path in folder.glob("*.safetensors"):
        path.unlink()
    network.save_pretrained(folder, max_shard_size=f"{num_bytes // 2500}KB")
    assert len(list(folder.glob("*-of-*.safetensors"))) > 1


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "SD 1.4": _sd_14,
    "SD 1.5": _sd_15,
    "SD 2.1": _sd_21,
    "a fine-tune": _fine_tune,
    "SDXL": _sdxl,
    "SDXL, sharded": _sdxl_sharded,
    "SDXL, fp16 only": _sdxl_fp16_only,
    "SD3": _sd3,
    "SD3 without T5": _sd3_without_t5,
    "SD3.5 medium": _sd35_medium,
    "SD3.5 large": _sd35_large,
}
