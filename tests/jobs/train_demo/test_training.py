"""The training jobs run and resume, and their formulas are right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from jobs.train_demo import command as train_demo
from jobs.train_demo.export import round_weights
from jobs.train_demo.latents import training_edit
from jobs.train_demo.loop import LossFunction, MovingAverage, train
from jobs.train_demo.progress import Progress, StageSettings
from jobs.train_demo.unet import (
    build_networks,
    build_scheduler,
    changed_cells,
    load_weights,
    min_snr_weights,
    outdated,
)
from jobs.train_demo.vae import build_vae, center_latents, encode_means, mean_psnr
from pipeline.demo.edits import sample_edit
from pipeline.demo.world import split_of

TEN_STEPS = StageSettings(minutes=60, steps=10, batch_size=4, learning_rate=0.1, warmup_steps=1)


def _line_fit(seen: list[float]) -> tuple[nn.Module, LossFunction]:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)

    def losses_at(step: int, fraction: float, generator: torch.Generator) -> dict[str, Tensor]:
        inputs = torch.randn(8, 3, generator=generator)
        seen.append(float(inputs[0, 0]))
        return {"loss": (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()}

    return network, losses_at


def test_a_resumed_run_gets_the_same_data_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Four steps and six more from the checkpoint draw the same as ten steps at once."""
    whole: list[float] = []
    network, losses_at = _line_fit(whole)
    train(network, losses_at, TEN_STEPS, tmp_path / "whole", resume=False)
    parts: list[float] = []
    for steps in (4, 10):
        network, losses_at = _line_fit(parts)
        settings = StageSettings(**{**vars(TEN_STEPS), "steps": steps})
        train(network, losses_at, settings, tmp_path / "parts", resume=True)
    assert parts == whole
    assert len(whole) == 10
    assert (tmp_path / "parts" / "losses.png").exists()


def test_the_learning_rate_warms_up_and_decays_over_the_budget() -> None:
    """Warm-up by steps, about half of the peak at half of the budget, 1 % at the end."""
    progress = Progress(StageSettings(60, 0, 1, learning_rate=1.0, warmup_steps=10))
    assert progress.learning_rate(0.0) == pytest.approx(0.1)
    progress.step = 10
    assert progress.learning_rate(0.5) == pytest.approx(0.505)
    assert progress.learning_rate(1.0) == pytest.approx(0.01)


def test_the_moving_average_by_hand() -> None:
    """After one update with decay 0.5 it is halfway between the old and the new value."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    average = MovingAverage(network, decay=0.5)
    nn.init.constant_(network.weight, 1.0)
    average.update(network, step=1000)
    average.copy_to(network)
    assert network.weight.item() == pytest.approx(0.5)


def test_min_snr_weights_by_hand() -> None:
    """Noisy levels (snr below gamma) keep weight 1; at snr 9 the weight is 5/9."""
    weights = min_snr_weights(torch.tensor([0.5, 0.9]), 5.0)
    assert weights.tolist() == pytest.approx([1.0, 5 / 9])


def test_the_scheduler_is_stable_diffusions() -> None:
    """The first and the last level of SD 1.5's scaled linear schedule."""
    levels = build_scheduler().alphas_cumprod
    assert levels[0].item() == pytest.approx(0.99915, abs=1e-5)
    assert levels[-1].item() == pytest.approx(0.00466, abs=1e-5)


def test_centering_the_latents_keeps_the_decoded_image() -> None:
    """Afterwards all channels have mean 0 and, scaled, the standard deviation 1."""
    torch.manual_seed(0)
    vae = build_vae([8, 16, 16, 16], 4)
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = vae.decode(vae.encode(images).latent_dist.mean).sample
    center_latents(vae, images)
    after = vae.decode(vae.encode(images).latent_dist.mean).sample
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    scaled = encode_means(vae, images) * vae.config.scaling_factor
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(scaled.std((0, 2, 3)), torch.ones(4), rtol=1e-3, atol=0)


def test_mean_psnr_is_a_mean_over_images_of_counted_pixels() -> None:
    """An error of 0.1 everywhere is 26 dB; without a counted error it is the maximum."""
    images, counted = torch.zeros(2, 3, 4, 4), torch.ones(2, 1, 4, 4, dtype=torch.bool)
    counted[1] = False
    value = mean_psnr(images + 0.1, images, counted, max_db=53.0)
    assert value.item() == pytest.approx((26.02 + 53.0) / 2, abs=0.02)


def test_no_training_scene_is_held_out() -> None:
    """Neither scene of an edit is; replaced edits keep their kind."""
    plain = [sample_edit(1, "train", index) for index in range(64)]
    edits = [training_edit(1, index) for index in range(64)]
    assert any(split_of(edit.target) == "heldout" for edit in plain)
    assert all(split_of(edit.source) == split_of(edit.target) == "train" for edit in edits)
    assert [edit.kind for edit in edits] == [edit.kind for edit in plain]


def _two_latents() -> tuple[Tensor, Tensor]:
    """64 images and their edits, which differ only in the left half."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(64, 4, 6, 6, generator=generator)
    other = clean.clone()
    other[..., :3] += 0.1 + torch.rand(64, 1, 6, 3, generator=generator)
    return clean, other


def test_changed_cells_lie_where_latents_differ() -> None:
    """Every image has at least one changed cell, and masks have different sizes."""
    cells = changed_cells(*_two_latents(), torch.Generator().manual_seed(1))
    assert cells.shape == (64, 1, 6, 6)
    assert not cells[..., 3:].any()
    counts = cells.flatten(1).sum(1)
    assert counts.min() >= 1
    assert len(counts.unique()) > 1


def test_outdated_latents_lie_between_the_two_images() -> None:
    """With much noise about half of them show all of the other image."""
    clean, other = _two_latents()
    sigmas = torch.full((64, 1, 1, 1), 10.0)
    shown = outdated(clean, other, sigmas, torch.Generator().manual_seed(2))
    share = ((shown - clean) / (other - clean))[..., :3]
    assert share.min() >= -1e-5
    assert share.max() <= 1 + 1e-5
    whole = (share > 1 - 1e-5).flatten(1).all(1).float().mean()
    assert 0.3 < whole < 0.7
    assert torch.equal(shown[..., 3:], clean[..., 3:])


def test_outdated_latents_fade_with_the_noise() -> None:
    """With little noise nothing of the other image is left; in between at most half of it."""
    clean, other = _two_latents()
    for sigma, most in ((0.3, 0.0), (0.65, 0.5)):
        sigmas = torch.full((64, 1, 1, 1), sigma)
        shown = outdated(clean, other, sigmas, torch.Generator().manual_seed(2))
        share = ((shown - clean) / (other - clean))[..., :3]
        assert share.max().item() == pytest.approx(most, abs=1e-5)


def test_rounded_weights_are_near_and_have_few_bits() -> None:
    """The error is at most half a unit of the last bit kept; the result is a bfloat16."""
    torch.manual_seed(0)
    network = nn.Linear(32, 32)
    before = network.weight.detach().clone()
    round_weights(network, 7)
    assert ((network.weight - before).abs() <= before.abs() * 2**-8).all()
    assert torch.equal(network.weight.bfloat16().float(), network.weight)
    assert not torch.equal(network.weight, before)
    round_weights(network, 4)
    assert not (network.weight.detach().half().view(torch.int16) & 0b111111).any()


def tiny_budget(folder: Path) -> Path:
    """A configuration of the stages with small networks, two steps and few images."""
    settings = yaml.safe_load(train_demo.SETTINGS.read_text())
    settings["folder"] = str(folder)
    settings["vae"].update(steps=2, batch_size=8, channels=[8, 8, 16, 16])
    settings["latents"].update(pairs=32)
    settings["joins"].update(steps=2, batch_size=4)
    settings["unet"].update(steps=2, batch_size=4, channels=[16, 16, 32])
    settings["edits"].update(steps=2, batch_size=2, noisy=4)
    settings["decoder"].update(edits=4, steps=2, batch_size=4)
    settings["classifier"].update(steps=2, batch_size=4, checked_scenes=8)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run_stage(stage: str, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train_demo", stage, "--config", str(config), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", arguments)
    train_demo.main()


def test_stages_run_on_a_tiny_budget_as_far_as_the_unet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage starts from what the one before it has saved."""
    config = tiny_budget(tmp_path)
    for stage in ("vae", "joins", "latents", "unet"):
        run_stage(stage, config, monkeypatch)
    assert any((tmp_path / "model").rglob("*.safetensors"))


@pytest.mark.sweep
def test_all_stages_run_on_a_tiny_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command goes from nothing to a folder that StableDiffusionPipeline loads and runs."""
    from diffusers import StableDiffusionPipeline

    run_stage("all", tiny_budget(tmp_path), monkeypatch)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red star on the sea", num_inference_steps=2).images[0]
    assert image.size == (128, 128)
    assert (tmp_path / "readback.safetensors").stat().st_size < 1_000_000


def test_training_starts_from_a_saved_model(tmp_path: Path) -> None:
    """`unet.start_from` loads UNet and text encoder, whatever their stored dtype."""
    settings = yaml.safe_load(train_demo.SETTINGS.read_text())["unet"] | {"channels": [16, 16, 32]}
    saved, fresh = (build_networks(settings, 4) for _ in range(2))
    saved.unet.save_pretrained(tmp_path / "unet")
    saved.text_encoder.save_pretrained(tmp_path / "text_encoder")
    load_weights(fresh, tmp_path)
    wanted = saved.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in fresh.state_dict().items())
