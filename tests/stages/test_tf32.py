"""TF32 for the float32 networks of a model: on where it is asked for, and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pipeline.config.config import Config
from pipeline.config.model import Model
from pipeline.models.device import set_tf32
from pipeline.models.text import EmptyText
from pipeline.stages.build import load_stages
from tests.packed import to_bytes
from tests.parts import make_config, make_part, make_prepared

Flags = tuple[bool, bool]


def flags() -> Flags:
    """Of matrix products and of convolutions."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@contextmanager
def recorded() -> Iterator[dict[str, set[Flags]]]:
    """The flags at every call of a module, by the names of its classes' modules."""
    seen: dict[str, set[Flags]] = {}

    def note(module: nn.Module, inputs: Any) -> None:
        seen.setdefault(type(module).__name__, set()).add(flags())

    hook: RemovableHandle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


def configured(folder: Path, *, tf32: bool) -> Config:
    config = make_config()
    return config.model_copy(update={"model": Model(path=str(folder), tf32=tf32)})


@pytest.mark.parametrize("tf32", [False, True])
def test_all_networks_see_the_setting_and_the_process_keeps_its_own(
    tiny_model_folder: Path, tf32: bool
) -> None:
    """Text encoder, UNet and both halves of the VAE; a scorer beside them would see TF32 off."""
    part = make_part(make_prepared(0, "a cat"))
    with recorded() as seen:
        for stage in load_stages(configured(tiny_model_folder, tf32=tf32), "fused", "cpu").values():
            assert flags() == (False, False)
            part = stage(part)
            assert flags() == (False, False)
    for name in ("CLIPTextModel", "UNet2DConditionModel", "Encoder", "Decoder"):
        assert seen[name] == {(tf32, tf32)}, name


def test_the_empty_text_is_embedded_with_it(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an actor drops its encoders, so that both layouts write the same bytes."""
    seen: list[Flags] = []
    embed = EmptyText.of

    def noting(text: Any) -> EmptyText:
        seen.append(flags())
        return embed(text)

    monkeypatch.setattr(EmptyText, "of", noting)
    load_stages(configured(tiny_model_folder, tf32=True), "encode", "cpu")
    assert seen == [(True, True)]


def test_on_a_cpu_it_changes_nothing(tiny_model_folder: Path) -> None:
    """The same part with and without it, bit for bit."""
    parts = []
    fresh = make_part(make_prepared(0, "a cat"))
    for tf32 in (False, True):
        part = copy.deepcopy(fresh)
        for stage in load_stages(configured(tiny_model_folder, tf32=tf32), "fused", "cpu").values():
            part = stage(part)
        parts.append(to_bytes(part))
    assert parts[0] == parts[1]


def test_an_error_restores_the_setting() -> None:
    """So that the next part of another stage is computed as it should be."""
    with pytest.raises(ValueError, match="x"), set_tf32(True):
        raise ValueError("x")
    assert flags() == (False, False)


@pytest.mark.gpu
def test_on_a_gpu_products_have_ten_bits() -> None:
    """With TF32 a product is off by about 2^-11 of its terms, without it by 2^-24."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    errors = []
    for allowed in (False, True):
        with set_tf32(allowed):
            found = (left.cuda() @ right.cuda()).cpu().double()
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[0] < 1e-6 < 1e-4 < errors[1] < 1e-2
