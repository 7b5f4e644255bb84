"""Checkpoints in one file, as Stable Diffusion's own code names the tensors, from a folder.

The names are those of the repositories CompVis/stable-diffusion, Stability-AI/stablediffusion and
Stability-AI/generative-models: the reverse of what a conversion to diffusers does, written from
their networks and not from diffusers' conversion.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

Tensors = dict[str, Tensor]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
SCHEDULE = ("betas", "alphas_cumprod", "model_ema.decay", "model_ema.num_updates")


def in_one_file(folder: Path, *, open_clip: bool = False) -> Tensors:
    """All tensors of a folder of Stable Diffusion 1, 2 (``open_clip``) or XL in one checkpoint."""
    is_xl = (folder / "text_encoder_2").is_dir()
    first = "conditioner.embedders.0" if is_xl else "cond_stage_model"
    tensors = {name: torch.zeros(4) for name in SCHEDULE} | original_vae(folder)
    config = json.loads((folder / "unet/config.json").read_text())
    for name, tensor in stored(folder, "unet").items():
        old = _unet_name(name, config["layers_per_block"], config["up_block_types"])
        tensors[f"model.diffusion_model.{old}"] = tensor
    text = stored(folder, "text_encoder")
    if open_clip:
        tensors |= _open_clip(text, f"{first}.model")
    else:
        named = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
        tensors |= {f"{first}.transformer.text_model.{name}": t for name, t in named.items()}
    if is_xl:
        tensors |= _open_clip(stored(folder, "text_encoder_2"), "conditioner.embedders.1.model")
    return tensors


def original_vae(folder: Path, prefix: str = "first_stage_model.") -> Tensors:
    """The VAE's tensors alone."""
    config = json.loads((folder / "vae/config.json").read_text())
    last = len(config["block_out_channels"]) - 1
    tensors = {}
    for name, tensor in stored(folder, "vae").items():
        old = _vae_name(name, last)
        if ".mid.attn_1." in old and old.endswith("weight") and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        tensors[prefix + old] = tensor
    return tensors


def stored(folder: Path, component: str) -> Tensors:
    """The tensors of a component, under the names of the file."""
    (file,) = (folder / component).glob("*.safetensors")
    return {k: t for k, t in load_file(file).items() if not k.endswith("position_ids")}


def _unet_name(name: str, layers: int, up_blocks: list[str]) -> str:
    for new, old in UNET.items():
        if name.startswith(f"{new}."):
            return old + name.removeprefix(new)
    if middle := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        kind, number, rest = middle.groups()
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_resnet(rest) if kind == 'resnets' else rest}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    assert found is not None, name
    way, block, kind, number, rest = found.groups()
    first = int(block) * (layers + 1) + (1 if way == "down" else 0)
    blocks = "input_blocks" if way == "down" else "output_blocks"
    if kind == "downsamplers":
        return f"{blocks}.{first + layers}.0.op{rest.removeprefix('conv')}"
    if kind == "upsamplers":
        place = 2 if "CrossAttn" in up_blocks[int(block)] else 1
        return f"{blocks}.{first + layers}.{place}.{rest}"
    if kind == "resnets":
        return f"{blocks}.{first + int(number)}.0.{_resnet(rest)}"
    return f"{blocks}.{first + int(number)}.1.{rest}"


def _resnet(rest: str) -> str:
    layer, _, what = rest.rpartition(".")
    return f"{RESNET[layer]}.{what}"


def _vae_name(name: str, last: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = name.replace("samplers.0.conv", "sample.conv")
    name = re.sub(r"down_blocks\.(\d+)\.(?:resnets\.)?", r"down.\1.", name)
    name = re.sub(
        r"up_blocks\.(\d+)\.(?:resnets\.)?", lambda found: f"up.{last - int(found[1])}.", name
    )
    name = re.sub(r"((?:down|up)\.\d+)\.(\d+)\.", r"\1.block.\2.", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    for new, old in ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
    return name


def _open_clip(text: Tensors, prefix: str) -> Tensors:
    """A text encoder as OpenCLIP names it: query, key and value in one matrix."""
    text = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    tensors = {
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "ln_final.weight": text["final_layer_norm.weight"],
        "ln_final.bias": text["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    if "text_projection.weight" in text:
        tensors["text_projection"] = text["text_projection.weight"].T.contiguous()
    layers = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
    layers |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for name, tensor in text.items():
        found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if found is None:
            continue
        number, layer, what = found.groups()
        block = f"transformer.resblocks.{number}"
        if layer == "self_attn.q_proj":
            parts = [text[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            tensors[f"{block}.attn.in_proj_{what}"] = torch.cat(parts)
        elif layer in layers:
            tensors[f"{block}.{layers[layer]}.{what}"] = tensor
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
