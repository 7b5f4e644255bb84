"""torch.compile for the network, as an option: where the code is kept, and the first call."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.config.config import Model
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.schedule import Level
from pipeline.models.text import TextEncoder

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# Of distinct shapes: a tail is padded to a power of two, and region decoding has a few sizes.
MAX_SHAPES = 64


def compile_network(network: nn.Module, model: Model) -> None:
    """Compiles a network in place at its first call of each shape; ``model.compile: off`` does not.

    Args:
        network: a UNet or a transformer.
        model: ``compile`` is off, default (fused kernels) or cuda_graphs (their launches recorded
            too); ``compile_cache`` is where compiled code is kept for the next actor.
    """
    if model.compile == "off":
        return
    if model.compile_cache is not None:
        os.environ[CACHE_VARIABLE] = model.compile_cache
    torch._dynamo.config.recompile_limit = MAX_SHAPES
    mode = "reduce-overhead" if model.compile == "cuda_graphs" else None
    network.compile(dynamic=False, mode=mode)


@contextmanager
def as_written(network: nn.Module) -> Iterator[None]:
    """While it lasts a compiled network runs as it was written: fused kernels hide their FLOPs."""
    compiled = network._compiled_call_impl
    network._compiled_call_impl = None
    try:
        yield
    finally:
        network._compiled_call_impl = compiled


@torch.inference_mode()
def warm_up(
    denoiser: Denoiser,
    text: TextEncoder,
    level: Level,
    latent_shape: tuple[int, ...],
    device: str,
) -> None:
    """One call with a whole micro-batch, so that compiling does not fall into a part's time.

    Args:
        denoiser: the compiled network.
        text: the model's; the empty text is enough.
        level: any.
        latent_shape: (N, C, h, w), N a micro-batch.
        device: the network's.
    """
    latent = torch.zeros(latent_shape, device=device)
    denoiser(latent, level, text.encode([""] * len(latent)))
