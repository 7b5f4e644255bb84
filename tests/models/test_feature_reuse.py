"""Feature reuse: exact for the same evaluation, stored per row, refused if unsupported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.config.method import Reuse
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.feature_reuse import ReusingDenoiser, evaluate, evaluate_outermost
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.network import NetworkDenoiser
from pipeline.models.suitability import check_suits
from tests.parts import (
    counted,
    decoded_latents,
    encoded_part,
    make_config,
    make_part,
    make_prepared,
    run_stages,
)
from tests.tiny_models import make_tiny_sdxl, make_tiny_stable_diffusion


@contextmanager
def outermost_calls(model: LatentDiffusion) -> Iterator[list[int]]:
    """Records the rows of every call of the outermost layers, including full evaluations."""
    rows: list[int] = []
    denoiser = model.unbatched
    assert isinstance(denoiser, NetworkDenoiser)
    hook = denoiser.network.conv_in.register_forward_pre_hook(
        lambda module, args: rows.append(len(args[0]))
    )
    try:
        yield rows
    finally:
        hook.remove()


@pytest.fixture(params=[make_tiny_stable_diffusion, make_tiny_sdxl])
def unet_model(request: pytest.FixtureRequest, tmp_path: Path) -> LatentDiffusion:
    """A model of each family that has a UNet."""
    return load_model(Model(path=str(request.param(tmp_path / "model"))), "cpu", Stage())


@pytest.mark.parametrize("layers", [1, 2])
def test_features_of_the_same_evaluation_give_the_same_eps(
    unet_model: LatentDiffusion, tolerance: dict, generator: torch.Generator, layers: int
) -> None:
    """The outermost layers with deep features of the same evaluation equal the whole network."""
    denoiser = unet_model.unbatched
    assert isinstance(denoiser, NetworkDenoiser)
    level = unet_model.schedule.level_at(0.5)
    latent = torch.randn(3, 4, 8, 8, generator=generator)
    with torch.inference_mode():
        condition = unet_model.text.encode(["a dog", "a red cat", ""])
        plain = denoiser(latent, level, condition)
        whole, deep = evaluate(denoiser, latent, level, condition, layers)
        again = evaluate_outermost(denoiser, latent, level, condition, layers, deep)
        other = evaluate_outermost(denoiser, latent, level, condition, layers, deep + 1.0)
    assert torch.equal(whole, plain)
    assert float((again - plain).abs().max() / plain.abs().max()) < tolerance[torch.float32]
    assert not torch.allclose(other, plain)


@pytest.mark.parametrize("sizes", [(8, 8, 8), (8, 2, 1), (3, 1, 4)])
def test_features_are_stored_per_row(
    tiny_model: LatentDiffusion, generator: torch.Generator, sizes: tuple[int, ...]
) -> None:
    """A different micro-batch size at each step changes results by rounding only."""
    levels = tiny_model.schedule.levels(3, 1.0)[::-1]
    latent = torch.randn(5, 4, 8, 8, generator=generator)

    def results(sizes: tuple[int, ...]) -> list[Tensor]:
        micro_batch = MicroBatch(8)
        unet = tiny_model.unbatched
        assert isinstance(unet, NetworkDenoiser)
        denoise = ReusingDenoiser(unet, micro_batch, Reuse(interval=3), levels[0])
        found = []
        for size, level in zip(sizes, levels, strict=False):
            micro_batch.size = size
            found.append(denoise(latent, level, condition))
        return found

    with torch.inference_mode():
        condition = tiny_model.text.encode(["a dog", "a cat", "a red dog", "", "photo"])
        for ours, plain in zip(results(sizes), results((5, 5, 5)), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("interval", "whole"), [(1, 4), (2, 2), (3, 2), (9, 1)])
def test_every_interval_has_one_full_evaluation(
    tiny_model: LatentDiffusion, interval: int, whole: int
) -> None:
    """The first step and each ``interval``-th after it are full; encoding only if configured."""
    config = make_config(reuse={"interval": interval})
    part = encoded_part(tiny_model, config, make_prepared(0, "a cat"))
    with counted(tiny_model) as rows, outermost_calls(tiny_model) as steps:
        run_stages(tiny_model, part, config, ["decode"])
    assert (len(rows), len(steps)) == (whole, 4)
    for encode, expected in ((False, 4), (True, whole)):
        config = make_config(reuse={"interval": interval, "encode": encode})
        part = run_stages(tiny_model, make_part(make_prepared(0, "a cat")), config, ["mask"])
        with counted(tiny_model) as rows:
            run_stages(tiny_model, part, config, ["encode"])
        assert len(rows) == expected


def test_each_sdedit_round_starts_with_a_full_evaluation(tiny_model: LatentDiffusion) -> None:
    """SDEdit's second round starts at the first level again and does not reuse old features."""
    config = make_config(name="sdedit", repeats=2, reuse={"interval": 9})
    part = encoded_part(tiny_model, config, make_prepared(0, "a cat"))
    with counted(tiny_model) as rows:
        run_stages(tiny_model, part, config, ["decode"])
    assert len(rows) == 2


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_edit_ignores_batch_neighbors(tiny_model: LatentDiffusion, solver: str) -> None:
    """With feature reuse an edit gives the same latent alone and among others, up to rounding."""
    config = make_config(reuse={"interval": 2}, solver=solver, guidance_scale=3.0)
    sample = make_prepared(0, "a cat")
    alone = decoded_latents(tiny_model, encoded_part(tiny_model, config, sample), config)[0]
    crowd = [
        make_prepared(1, "a blue square"),
        make_prepared(0, "a cat"),
        make_prepared(2, "a cat"),
    ]
    among = decoded_latents(tiny_model, encoded_part(tiny_model, config, *crowd), config)[1]
    torch.testing.assert_close(among, alone, rtol=1e-4, atol=1e-4)


def test_unsupported_combinations_are_refused(tiny_model: LatentDiffusion) -> None:
    """The error is one line that names key, value and what is allowed."""
    reuse = make_config(reuse={"interval": 3, "layers": 2})
    check_suits(tiny_model.info, reuse)
    with pytest.raises(ValueError, match=r"reuse.layers=3: this model allows 1 to 2"):
        check_suits(tiny_model.info, make_config(reuse={"interval": 3, "layers": 3}))
    with pytest.raises(
        ValueError, match=r"=3: not supported for stable-diffusion-3; .*interval: 1"
    ):
        check_suits(replace(tiny_model.info, family="stable-diffusion-3"), reuse)
    with pytest.raises(ValueError, match=r"reuse.interval=3: imagic allows 1"):
        make_config(name="imagic", reuse={"interval": 3})
    tree = reuse.model_dump() | {"model": {"compile": "default"}}
    with pytest.raises(ValueError, match=r"reuse.interval=3: allowed with model.compile: off"):
        type(reuse).model_validate(tree)
