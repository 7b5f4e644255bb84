"""Makes small random weights for the scorers, in the real weights' format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from pipeline.models.lpips import shapes_of
from tests.tiny_models import tiny_tokenizer

SIZE = 32  # side of the networks' input in pixels
WIDTH = 24  # of CLIP's features
LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
VISION: dict[str, Any] = {**LAYERS, "image_size": SIZE, "patch_size": 8}


def make_tiny_scorers(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Writes the weights of all six scorers; returns the config section ``scores`` for them."""
    tokenizer = tiny_tokenizer()
    ends = {"eos_token_id": len(tokenizer) - 1, "bos_token_id": len(tokenizer) - 2}
    text = {**LAYERS, "vocab_size": len(tokenizer), "max_position_embeddings": 77, **ends}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=WIDTH))
        dino = ViTModel(ViTConfig(**VISION), add_pooling_layer=False)
        dinov2 = Dinov2Model(Dinov2Config(**VISION))
        labels = {0: "normal", 1: "nsfw"}
        nsfw = ViTForImageClassification(ViTConfig(**VISION, id2label=labels))
        for network in (clip, dino, dinov2, nsfw):
            _strengthen(network)
    square, short = {"height": SIZE, "width": SIZE}, {"shortest_edge": SIZE}
    clip.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    CLIPImageProcessorPil(size=short, crop_size=square).save_pretrained(folder / "clip")
    dino.save_pretrained(folder / "dino")
    dinov2.save_pretrained(folder / "dinov2")
    BitImageProcessorPil(size=short, crop_size=square).save_pretrained(folder / "dinov2")
    nsfw.save_pretrained(folder / "nsfw")
    ViTImageProcessorPil(size=square).save_pretrained(folder / "nsfw")
    save_file(lpips_weights("squeeze", seed), folder / "lpips.safetensors")
    save_file(aesthetic_weights(seed), folder / "aesthetic.safetensors")
    return {
        "clip": {"path": str(folder / "clip")},
        "lpips": {"path": str(folder / "lpips.safetensors"), "net": "squeeze"},
        "dino": {"path": str(folder / "dino"), "layer": 2},
        "dinov2": {"path": str(folder / "dinov2")},
        "aesthetic": {"path": str(folder / "aesthetic.safetensors")},
        "nsfw": {"path": str(folder / "nsfw")},
    }


def lpips_weights(net: str, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a backbone and its heads, drawn by numpy in the order of their names.

    Convolutions are scaled to keep the activations' size. Heads are not negative, like trained
    ones.
    """
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in sorted(shapes_of(net).items()):
        values: np.ndarray = generator.standard_normal(shape).astype(np.float32)
        if name.startswith("lin"):
            values = np.abs(values) / shape[1]
        elif len(shape) == 4:
            values *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        else:
            values *= np.float32(0.1)
        weights[name] = torch.from_numpy(values)
    return weights


def aesthetic_weights(seed: int = 0) -> dict[str, Tensor]:
    """Two linear layers whose numbers have a gap, as in LAION's head with dropout between."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "layers.0.weight": draw(8, WIDTH),
        "layers.0.bias": draw(8),
        "layers.10.weight": draw(1, 8),
        "layers.10.bias": draw(1),
    }


def _strengthen(network: PreTrainedModel) -> None:
    """Scales weights up, so that different images and texts get clearly different scores."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "embedding" not in name:
                parameter.mul_(5.0)
            elif "token_embedding" in name:
                parameter.mul_(20.0)
