"""A model on the tests' hub: its name, and how it is probed and loaded."""

from __future__ import annotations

from typing import Any

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.loading import load_model
from pipeline.models.model_info import ModelInfo
from pipeline.models.probe import probe_model

NAME = "owner/name"
UNET = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = r"\.safetensors$"


def probe(**settings: Any) -> ModelInfo:
    """What the driver does."""
    return probe_model(Model(path=NAME, **settings))


def load(**settings: Any) -> ModelInfo:
    """What a worker does."""
    return load_model(Model(path=NAME, **settings), "cpu", Stage()).info
