"""Whole methods with SDXL and Stable Diffusion 3, compared with diffusers and in the local loop."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from torch import Tensor

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.execution.local_loop import run_loop
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.plan.plan import make_plan
from pipeline.records.part import Part, Sample, Status
from pipeline.records.seeds import noise_seed
from pipeline.steps.verify import verify
from tests.committing import make_config as job_config
from tests.conftest import TOLERANCE
from tests.parts import (
    make_config,
    make_part,
    make_prepared,
    required,
    run_stages,
    same_in_pools_and_fused,
)
from tests.samples import raw_sample, write_shard
from tests.tiny_models import load_pipeline, make_tiny_sd3, make_tiny_sdxl

TEXTS = ("a cat", "a red dog", "photo of a square")
RELATIVE = 1e-4  # relative to diffusers with the same weights, schedule and noise


def decoded_latents(
    model: LatentDiffusion, part: Part, config: Any, monkeypatch: pytest.MonkeyPatch
) -> Tensor:
    """Runs encode and decode; returns the latents that the decode stage passes to the VAE."""
    seen: list[Tensor] = []
    decode = model.image_coder.decode_each

    def recording(latents: Tensor) -> list[np.ndarray | None]:
        seen.append(latents)
        return decode(latents)

    monkeypatch.setattr(model.image_coder, "decode_each", recording)
    run_stages(model, part, config, ["encode", "decode"])
    return torch.cat(seen)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize(("strength", "zero_empty"), [(0.3, True), (0.8, False), (1.0, True)])
def test_sdedit_with_sdxl_equals_its_image_to_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strength: float, zero_empty: bool
) -> None:
    """diffusers' pipeline with a DDIM sampler gives the same latent and the same image."""
    folder = make_tiny_sdxl(tmp_path / "model", zero_empty=zero_empty)
    model = load_model(Model(path=str(folder)), "cpu", Stage())
    pipeline = load_pipeline(StableDiffusionXLImg2ImgPipeline, folder)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    compare_with_image_to_image(model, pipeline, strength, 20, monkeypatch)


@pytest.mark.parametrize(("strength", "steps"), [(0.3, 20), (0.8, 50), (1.0, 50), (1.0, 28)])
def test_sdedit_with_sd3_equals_its_image_to_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strength: float, steps: int
) -> None:
    """DDIM in (u, tau) equals diffusers' Euler in s, even from pure noise (s = 1, infinite tau)."""
    folder = make_tiny_sd3(tmp_path / "model")
    model = load_model(Model(path=str(folder)), "cpu", Stage())
    pipeline = load_pipeline(StableDiffusion3Img2ImgPipeline, folder)
    assert isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
    assert pipeline.scheduler.config.shift == 3.0
    compare_with_image_to_image(model, pipeline, strength, steps, monkeypatch)


def compare_with_image_to_image(
    model: LatentDiffusion,
    pipeline: Any,
    strength: float,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compares SDEdit with diffusers' image-to-image: same latent and noise, guidance 5."""
    config = make_config(name="sdedit", steps=steps, strength=strength, guidance_scale=5.0)
    part = run_stages(model, make_part(make_prepared(0, "a cat")), config, ["mask"])
    latent = torch.from_numpy(required(part.samples[0].latent))[None]
    seed = noise_seed(0, "shard", "k0", "encode")

    def theirs(output_type: str) -> Any:
        return pipeline(
            "a cat",
            image=latent,
            strength=strength,
            num_inference_steps=steps,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(seed),
            output_type=output_type,
        ).images[0]

    ours = decoded_latents(model, part, config, monkeypatch)
    assert relative_error(ours[0], theirs("latent")) <= RELATIVE
    difference = required(part.edits[0].image).astype(float) - theirs("np") * 255.0
    assert np.abs(difference).max() < 0.6  # rounding to uint8 accounts for 0.5
    assert part.edits[0].num_evals_decode == 2 * round(steps * strength)


def test_decoding_an_encoded_latent_equals_diffusers_euler_loop(tmp_path: Path) -> None:
    """From DiffEdit's x_r, 40 of 50 steps of FlowMatchEulerDiscreteScheduler, without guidance."""
    model = load_model(Model(path=str(make_tiny_sd3(tmp_path / "model"))), "cpu", Stage())
    config = make_config(steps=50, guidance_scale=1.0, mask={"source": "full"})
    part = run_stages(model, make_part(make_prepared(0, "a cat")), config, ["mask", "encode"])
    trajectory = torch.from_numpy(required(part.samples[0].trajectory))
    assert trajectory.shape == (41, 16, 8, 8)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(model.info.folder / "scheduler")
    scheduler.set_timesteps(50)
    scheduler.set_begin_index(10)
    latent, text = trajectory[-1:], model.text.encode(["a cat"])
    transformer = model.unbatched.network
    with torch.inference_mode():
        for timestep in scheduler.timesteps[10:]:
            velocity = transformer(latent, text.tokens, text.pooled, timestep[None]).sample
            latent = scheduler.step(velocity, timestep, latent).prev_sample
        theirs = model.image_coder.vae.decode(latent / 4.0 + 0.06).sample[0]
    run_stages(model, part, config, ["decode"])
    theirs = ((theirs + 1.0) * 127.5).clamp(0.0, 255.0).permute(1, 2, 0)
    assert np.abs(required(part.edits[0].image) - theirs.numpy()).max() < 0.51


@pytest.mark.parametrize("rule", ["minmax", "mean_ratio", "otsu"])
@pytest.mark.parametrize("reference", ["caption", "empty"])
def test_equal_texts_change_nothing(
    family_model: LatentDiffusion, rule: str, reference: str
) -> None:
    """If reference and edit text are equal, the mask is empty and nothing is decoded."""
    text = "a dog" if reference == "caption" else ""
    mask = {"num_noises": 2, "rule": rule, "reference": reference, "floor": 0.0, "threshold": 0.3}
    config = make_config(mask=mask)
    part = make_part(make_prepared(0, text), make_prepared(1, "a cat"))
    before = copy.deepcopy(part.samples[0].image)
    run_stages(family_model, part, config)
    same, other = part.edits
    assert (same.status, same.stage) == (Status.UNCHANGED, "mask")
    assert not required(same.mask).any()
    assert same.image is None
    assert np.array_equal(required(part.samples[0].image), required(before))
    assert required(other.mask).any()
    assert other.image is not None


def test_background_is_the_clean_latents(
    family_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edits change the latent inside masks that are neither empty nor full, and only there."""
    config = make_config(steps=10)
    part = make_part(*(make_prepared(number, *TEXTS) for number in range(2)))
    run_stages(family_model, part, config, ["mask"])
    clean = torch.stack([torch.from_numpy(required(sample.latent)) for sample in part.samples])
    latents = decoded_latents(family_model, part, config, monkeypatch)
    masks = torch.stack([torch.from_numpy(required(edit.mask)) for edit in part.edits])[:, None]
    assert [edit.status for edit in part.edits] == [None] * 6
    background = clean.repeat_interleave(3, dim=0)
    outside = (masks == 0.0).expand_as(latents)
    assert torch.equal(latents[outside], background[outside])
    assert float((latents - background)[~outside].abs().mean()) > 0.01
    assert 0.05 < float(masks.mean()) < 0.95
    assert [edit.num_evals_decode for edit in part.edits] == [16] * 6


def test_pools_and_fused_give_the_same_bytes(family_folder: Path) -> None:
    """Stages with separate networks equal stages over one network, for each family."""
    config = make_config().model_copy(update={"model": Model(path=str(family_folder))})
    same_in_pools_and_fused(config, make_part(make_prepared(0, *TEXTS)))


def test_micro_batch_changes_rounding_only(
    family_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row per call or all rows: masks are equal, and latents are close."""
    latents, masks = [], []
    for size in (1, 32):
        model = family_model.with_micro_batch(size)
        part = run_stages(model, make_part(make_prepared(0, *TEXTS)), make_config(), ["mask"])
        latents.append(decoded_latents(model, part, make_config(), monkeypatch))
        masks.append([required(edit.mask) for edit in part.edits])
    assert np.array_equal(masks[0], masks[1])
    assert relative_error(*latents) <= RELATIVE


@pytest.mark.parametrize("size", [3, 8])
def test_edit_ignores_batch_neighbors(
    family_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """First, in the middle or last in a batch: the mask is equal, the latent equal to 1e-5."""

    def edited(*samples: Sample) -> tuple[list[np.ndarray], Tensor]:
        part = run_stages(family_model, make_part(*samples), make_config(), ["mask"])
        latents = decoded_latents(family_model, part, make_config(), monkeypatch)
        return [required(edit.mask) for edit in part.edits], latents

    (mask,), (latent,) = edited(make_prepared(0))
    for index in (0, size // 2, size - 1):
        others = [make_prepared(10 * index + n, "a red dog", "photo") for n in range(1, size)]
        masks, latents = edited(*others[:index], make_prepared(0), *others[index:])
        row = 2 * index  # each of the others has two edits
        assert np.array_equal(masks[row], mask)
        assert relative_error(latents[row], latent) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_job_edits_a_shard_with_each_family(
    family_folder: Path, tmp_path: Path, dtype: str
) -> None:
    """The local loop publishes a shard that passes verification, for each family."""
    samples = [raw_sample("a", ["a cat", "a dog"]), raw_sample("b", ["a red dog"], seed=1)]
    write_shard(tmp_path / "in/0.tar", samples)
    config = job_config(
        str(tmp_path / "in/*.tar"),
        output={"path": str(tmp_path / "out")},
        model={"path": str(family_folder), "dtype": dtype},
        method={"steps": 5, "mask": {"num_noises": 2}},
    )
    plan = make_plan(config, "cpu")
    assert plan.model.size_for(config.model) == 32
    assert run_loop(plan).work == []
    stats = json.loads((tmp_path / "out/0_stats.json").read_text())
    assert {status: n for status, n in stats["counts"].items() if n} == {
        "edited": 2, "unchanged": 1,
    }  # fmt: skip
    assert stats["model_revision"] == plan.model.revision != ""
    environment = json.loads((tmp_path / "out/_run/environment.json").read_text())
    assert environment["model"]["revision"] == plan.model.revision
    assert environment["model"]["family"] == plan.model.family
    assert verify(plan.output).problems == []


@pytest.mark.parametrize("solver", ["dpmpp_2m"])
def test_every_solver_edits(family_model: LatentDiffusion, solver: str) -> None:
    """The other solvers work with each family."""
    part = run_stages(family_model, make_part(make_prepared(0)), make_config(solver=solver))
    assert part.edits[0].image is not None


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_round_trip_error_decreases_with_more_steps(
    family_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, solver: str
) -> None:
    """With the empty text and no guidance, 100 steps have less than half the error of 25."""
    errors = []
    for steps in (25, 100):
        config = make_config(
            solver=solver, steps=steps, guidance_scale=1.0, mask={"source": "full"}
        )
        part = run_stages(family_model, make_part(make_prepared(0, "")), config, ["mask"])
        clean = torch.from_numpy(required(part.samples[0].latent))[None]
        back = decoded_latents(family_model, part, config, monkeypatch)
        errors.append(float((back - clean).square().mean().sqrt() / clean.std()))
    assert errors[1] < 0.5 * errors[0]
