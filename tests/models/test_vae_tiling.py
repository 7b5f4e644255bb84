"""VAE tiling: only above a size, in tiles of the VAE's own size, close to the untiled image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.benchmark.work import draw_samples
from pipeline.config.config import Config
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.plan.fingerprint import fingerprint_inputs
from tests.parts import make_config


def load(folder: Path, **settings: int | None) -> LatentDiffusion:
    """The small model, made for 32 pixels, for images of 64."""
    return load_model(Model(path=str(folder), size=64, **settings), "cpu", Stage())


@pytest.mark.parametrize(("above", "tiled"), [(None, False), (64, False), (63, True)])
def test_only_images_above_the_limit_are_tiled(
    tiny_model_folder: Path, above: int | None, tiled: bool
) -> None:
    """With tiling, encoder and decoder get at most the VAE's own size, else the whole image."""
    model = load(tiny_model_folder, vae_tiling_above=above)
    vae = model.image_coder.vae
    sides: list[int] = []
    for half in (vae.encoder, vae.decoder):
        half.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    with torch.inference_mode():
        latents = model.image_coder.encode([torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()])
        images = model.image_coder.decode(latents)
    assert latents.shape[-2:] == (16, 16)
    assert images.shape == (1, 64, 64, 3)
    assert max(sides) == (32 if tiled else 64)


def test_a_vae_micro_batch_of_one_is_diffusers_slicing(tiny_model_folder: Path) -> None:
    """Latents and images are equal to the bit, and neither half sees two images at once."""
    model = load(tiny_model_folder, vae_micro_batch=1)
    coder, vae = model.image_coder, model.image_coder.vae
    images = list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))
    rows: list[int] = []
    for half in (vae.encoder, vae.decoder):
        half.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.inference_mode():
        latents = coder.encode(images)
        found = coder.decode(latents)
        assert rows == [1] * 6
        vae.enable_slicing()
        wanted = vae.encode(pixels).latent_dist.mode() * coder.scale
        shown = vae.decode(latents / coder.scale, return_dict=False)[0]
    assert torch.equal(latents, wanted)
    shown = ((shown + 1.0) * 127.5).round().clamp(0.0, 255.0).to(torch.uint8)
    assert np.array_equal(found, shown.permute(0, 2, 3, 1).numpy())


def test_of_listed_sizes_the_largest_area_counts(tiny_model_folder: Path) -> None:
    """64 x 36 is as many pixels as a square of 48."""
    for above, tiled in ((48, False), (47, True)):
        settings = Model(
            path=str(tiny_model_folder), buckets=[(32, 32), (64, 36)], vae_tiling_above=above
        )
        assert load_model(settings, "cpu", Stage()).image_coder.vae.use_tiling == tiled


def test_tiled_reconstruction_is_close_to_the_untiled_one() -> None:
    """Scenes of twice the bundled VAE's size have less than twice the untiled squared error.

    The mean is over six scenes, because the loss depends on the scene: each tile has its own group
    statistics, and a tile that shows little but a bright object may lose 3.6 times as much.
    """
    scenes = [sample.image for sample in draw_samples(6, 1, 256)]
    images = []
    for above in (None, 128):
        settings = Model(path="bundled", size=256, vae_tiling_above=above)
        coder = load_model(settings, "cpu", Stage()).image_coder
        with torch.inference_mode():
            images.append(coder.decode(coder.encode(scenes)).astype(float))
    whole, tiled = images
    assert not (whole == tiled).all()
    assert ((tiled - scenes) ** 2).mean() < 2.0 * ((whole - scenes) ** 2).mean()


def test_tiling_is_in_the_fingerprint() -> None:
    """Tiling changes pixels, so it changes the fingerprint."""

    def inputs(config: Config, above: int) -> dict:
        model = config.model.model_copy(update={"vae_tiling_above": above})
        changed = config.model_copy(update={"model": model})
        return fingerprint_inputs(changed, "revision", "cpu")["model"]

    config = make_config()
    assert inputs(config, 512) != inputs(config, 1024)
