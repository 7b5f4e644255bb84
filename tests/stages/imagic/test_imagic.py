"""Imagic's stages: encode fits, decode generates candidates and keeps the best.

Most tests run in both forms: full, which must restore the weights after each edit, and lora, which
fits several edits in one batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.config import Config
from pipeline.config.model import Model
from pipeline.config.stages import STAGES, Stage
from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.latents import from_numpy
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.records.part import Edit, Sample, Status
from pipeline.stages.build import build_stage
from pipeline.stages.imagic.decode import ImagicDecodeStage
from pipeline.stages.imagic.fit import ImagicFitStage
from tests.packed import to_bytes
from tests.parts import (
    counted,
    make_config,
    make_part,
    make_prepared,
    required,
    run_stages,
    same_in_pools_and_fused,
)
from tests.stages.test_build import with_model
from tests.tiny_models import make_tiny_sd3, make_tiny_sdxl

FORMS = ("lora", "full")
FAST: dict[str, Any] = {
    "embedding_steps": 3,
    "model_steps": 3,
    "model_learning_rate": 1e-2,
    "draws": 2,
    "seeds": 1,
}


def imagic(form: str = "lora", mask: dict | None = None, **settings: Any) -> Config:
    """A configuration with a short fit, and few noises for an inferred mask."""
    own = FAST | {"form": form} | ({"rank": 2} if form == "lora" else {}) | settings
    return make_config(name="imagic", imagic=own, mask={"num_noises": 2} | (mask or {}))


def fitted(model: LatentDiffusion, config: Config, *samples: Sample) -> list[Edit]:
    """The edits after the fit. The mask stage runs per sample, so that latents are equal."""
    for sample in samples:
        run_stages(model, make_part(sample), config, ["mask"])
    return run_stages(model, make_part(*samples), config, ["encode"]).edits


def generated(model: LatentDiffusion, config: Config, edit: Edit) -> np.ndarray:
    """(S, C, h, w): the candidates of a fitted edit of image 0, form lora."""
    (sample,) = run_stages(model, make_part(make_prepared(0)), config, ["mask"]).samples
    edit.mask = sample.edits[0].mask
    decode = ImagicDecodeStage(model, config.method, 0)
    with torch.inference_mode():
        (candidates,) = decode._candidates("shard", [(sample, edit)])
    return candidates.numpy()


def outcome(edit: Edit) -> np.ndarray:
    """The result of a fit in either form."""
    values = edit.candidates if edit.adapter is None else edit.adapter
    assert values is not None
    return values


@pytest.mark.parametrize("form", FORMS)
def test_two_images_in_both_orders_give_the_same_bytes(
    tiny_model: LatentDiffusion, form: str
) -> None:
    """No image starts from another one's fine-tuned weights."""
    config = imagic(form)
    stages = [build_stage(config, name, tiny_model) for name in STAGES]

    def edited(number: int) -> bytes:
        part = make_part(make_prepared(number))
        for stage in stages:
            stage(part)
        assert part.edits[0].image is not None
        return to_bytes(part)

    first, second = edited(0), edited(1)
    assert (edited(1), edited(0)) == (second, first)
    assert first != second


@pytest.mark.parametrize("index", [0, 1, 2])
def test_full_fit_ignores_neighbors_exactly(tiny_model: LatentDiffusion, index: int) -> None:
    """Edits are fitted one after the other, each from the same weights."""
    config = imagic("full", embedding_steps=2, model_steps=2)
    (alone,) = fitted(tiny_model, config, make_prepared(0))
    crowd = [make_prepared(10 * index + n) for n in (1, 2)]
    crowd.insert(index, make_prepared(0))
    assert np.array_equal(outcome(fitted(tiny_model, config, *crowd)[index]), outcome(alone))


@pytest.mark.parametrize(("batch", "indices"), [(1, [2]), (3, [0, 1, 2]), (8, [0, 5, 7])])
def test_lora_fit_ignores_neighbors(
    tiny_model: LatentDiffusion, batch: int, indices: list[int], tolerance: dict
) -> None:
    """Different neighbors give the same bytes at every index; another batch size changes rounding.

    This holds for the fitted embedding and for the latent generated with it.
    """
    config = imagic()
    (alone,) = fitted(tiny_model, config, make_prepared(0))
    (alone_latent,) = generated(tiny_model, config, alone)
    alone_embedding = required(alone.embedding)
    seen = []
    for index in indices:
        crowd = [make_prepared(10 * index + n) for n in range(1, max(batch, 3))]
        crowd.insert(index, make_prepared(0))
        model = tiny_model.with_micro_batch(batch * FAST["draws"])
        with counted(model) as rows:
            among = fitted(model, config, *crowd)[index]
        assert max(rows) == batch * FAST["draws"]
        (latent,) = generated(tiny_model, config, among)
        embedding = required(among.embedding)
        for ours, theirs in ((embedding, alone_embedding), (latent, alone_latent)):
            error = np.abs(ours - theirs).max() / np.abs(theirs).max()
            assert error < tolerance[torch.float32]
        seen.append((embedding.tobytes(), required(among.adapter).tobytes()))
    assert len(set(seen)) == 1


def test_a_fit_that_is_not_finite_fails_its_edit_alone(tiny_model: LatentDiffusion) -> None:
    """A neighbor in the same batch has the same result as alone."""
    config = imagic()
    (alone,) = fitted(tiny_model, config, make_prepared(0))
    part = run_stages(tiny_model, make_part(make_prepared(0), make_prepared(1)), config, ["mask"])
    part.samples[1].latent = np.full_like(required(part.samples[1].latent), np.nan)
    good, bad = run_stages(tiny_model, part, config, ["encode"]).edits
    assert (bad.status, bad.stage, bad.error) == (Status.FAILED, "encode", "NonFinite")
    np.testing.assert_allclose(required(good.adapter), required(alone.adapter), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_pools_and_fused_give_the_same_bytes(tiny_model_folder: Path, form: str) -> None:
    """The part carries everything that decode needs from the fit."""
    config = with_model(imagic(form, seeds=2), tiny_model_folder)
    fused = same_in_pools_and_fused(
        config, make_part(make_prepared(0, "a cat", "a red dog"), make_prepared(1))
    )
    assert all(edit.image is not None for edit in fused.edits)
    assert not any(edit.adapter is not None or edit.candidates is not None for edit in fused.edits)


@pytest.mark.parametrize("form", FORMS)
def test_rows_report_the_number_of_evaluations(tiny_model: LatentDiffusion, form: str) -> None:
    """Forward passes of fit, guided generation and scoring count; backward passes do not."""
    config = imagic(form, seeds=2, score_draws=3)
    with counted(tiny_model) as rows:
        part = run_stages(tiny_model, make_part(make_prepared(0), make_prepared(1)), config)
    for edit in part.edits:
        assert edit.num_evals_encode == (3 + 3) * 2
        assert edit.num_evals_decode == 2 * 5 * 2 + 2 * 2 * 3
    assert sum(rows) == sum(edit.num_evals_encode + edit.num_evals_decode for edit in part.edits)


@pytest.mark.parametrize("form", FORMS)
def test_equal_texts_are_unchanged_and_cost_nothing(tiny_model: LatentDiffusion, form: str) -> None:
    """Edits whose texts have equal tokens end before the fit."""
    with counted(tiny_model) as rows:
        part = run_stages(
            tiny_model, make_part(make_prepared(0, "A  Dog", caption="a dog")), imagic(form)
        )
    (edit,) = part.edits
    assert (edit.status, edit.stage) == (Status.UNCHANGED, "encode")
    assert "does not distinguish" in str(edit.message)
    assert not required(edit.mask).any()
    assert rows == []


@pytest.mark.parametrize("form", FORMS)
def test_background_is_the_clean_latent(tiny_model: LatentDiffusion, form: str) -> None:
    """Outside a supplied mask the candidate equals the clean latent, bit for bit."""
    sample = make_prepared(0)
    sample.supplied_mask = np.zeros((32, 32), np.uint8)
    sample.supplied_mask[:, :16] = 255
    config = imagic(form)
    part = run_stages(tiny_model, make_part(sample), config, ["mask", "encode"])
    clean = required(part.samples[0].latent)
    decode = ImagicDecodeStage(tiny_model, config.method, 0)
    with torch.inference_mode():
        latent = decode._candidates("shard", [(sample, part.edits[0])])[0, 0].numpy()
    assert np.array_equal(latent[..., 4:], clean[..., 4:])
    assert not np.allclose(latent[..., :4], clean[..., :4])


def test_inferred_mask_equals_diffedits(tiny_model: LatentDiffusion) -> None:
    """mask.source: infer combines DiffEdit's mask stage with Imagic."""
    ours = run_stages(
        tiny_model, make_part(make_prepared(0)), imagic(mask={"source": "infer"}), ["mask"]
    )
    theirs = run_stages(tiny_model, make_part(make_prepared(0)), make_config(), ["mask"])
    assert np.array_equal(required(ours.edits[0].mask), required(theirs.edits[0].mask))
    full = run_stages(tiny_model, make_part(make_prepared(0)), imagic(), ["mask"])
    assert required(full.edits[0].mask).min() == 1.0


class PreferThird:
    """A scorer that prefers the third candidate."""

    name, num_evals = "third", 0

    def __call__(self, shard: str, pairs: Any, candidates: torch.Tensor) -> torch.Tensor:
        return (torch.arange(candidates.shape[1]) == 2).float().expand(len(pairs), -1)


def test_best_candidate_is_kept(tiny_model: LatentDiffusion) -> None:
    """The scorer decides, a note says which one is kept; more seeds do not change the first."""
    config = imagic("full", seeds=4)
    part = run_stages(tiny_model, make_part(make_prepared(0)), config, ["mask", "encode"])
    candidates = from_numpy(required(part.edits[0].candidates).copy())
    (fewer,) = fitted(tiny_model, imagic("full", seeds=2), make_prepared(0))
    np.testing.assert_allclose(required(fewer.candidates), candidates[:2], atol=1e-4)
    ImagicDecodeStage(tiny_model, config.method, 0, scorer=PreferThird())(part)
    with torch.inference_mode():
        image = tiny_model.image_coder.decode(candidates[2:3])[0]
    assert np.array_equal(required(part.edits[0].image), image)
    assert part.edits[0].notes == ["image 3 of 4 kept, third 1.0000"]


def test_text_agreement_changes_sign_when_texts_are_swapped(tiny_model: LatentDiffusion) -> None:
    """Swapping caption and edit text negates every score."""
    stage = ImagicDecodeStage(tiny_model, imagic(seeds=2).method, 0)
    latents = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    edit, swapped = Edit(0, "a cat"), Edit(0, "a dog")
    there = Sample("k", caption="a dog", latent=latents[0, 0].numpy())
    back = Sample("k", caption="a cat", latent=latents[0, 0].numpy())
    forward = stage.scorer("s", [(there, edit)], latents)
    assert forward.shape == (1, 3)
    assert forward.abs().min() > 0
    torch.testing.assert_close(stage.scorer("s", [(back, swapped)], latents), -forward)


def loss_of(stage: ImagicFitStage, pair: Any, tokens: torch.Tensor) -> float:
    """The loss of one edit over 100 draws that the fit has not used."""
    condition = Condition(tokens, stage._texts([pair]).pooled)
    loss = stage._loss("shard", [pair], "held out", condition)
    with torch.no_grad():
        return float(torch.stack([loss() for _ in range(25)]).mean())


def test_embedding_fit_lowers_the_loss(tiny_model: LatentDiffusion) -> None:
    """Over fresh draws the fitted embedding has a lower denoising loss than the edit text."""
    config = imagic(embedding_steps=60, model_steps=0, embedding_learning_rate=0.05, draws=4)
    part = run_stages(tiny_model, make_part(make_prepared(0)), config, ["mask", "encode"])
    stage, pair = ImagicFitStage(tiny_model, config.method, 0), (part.samples[0], part.edits[0])
    embedding = torch.from_numpy(required(part.edits[0].embedding))[None]
    assert loss_of(stage, pair, embedding) < 0.9 * loss_of(stage, pair, stage._texts([pair]).tokens)


@pytest.mark.parametrize("form", FORMS)
def test_checkpointing_does_not_change_the_fit(
    tiny_model_folder: Path, form: str, tolerance: dict
) -> None:
    """The backward pass runs the network again with the same factors and weights."""
    results = []
    for checkpointing in (False, True):
        model = load_model(Model(path=str(tiny_model_folder)), "cpu", Stage())
        config = imagic(form, checkpointing=checkpointing)
        with counted(model) as rows:
            (edit,) = fitted(model, config, make_prepared(0))
        results.append(outcome(edit))
        assert bool(rows)
    np.testing.assert_allclose(results[0], results[1], atol=tolerance[torch.float32])


def test_fit_works_inside_inference_mode(tiny_model: LatentDiffusion) -> None:
    """A caller's inference mode does not prevent gradients."""
    (outside,) = fitted(tiny_model, imagic(), make_prepared(0))
    with torch.inference_mode():
        (inside,) = fitted(tiny_model, imagic(), make_prepared(0))
    assert np.array_equal(required(inside.adapter), required(outside.adapter))


def test_bfloat16_model_is_fitted_in_float32(tiny_model_folder: Path) -> None:
    """Factors change by less than bfloat16 could represent, and are stored in the model's dtype."""
    model = load_model(Model(path=str(tiny_model_folder), dtype="bfloat16"), "cpu", Stage())
    config = imagic(model_learning_rate=1e-4)
    part = run_stages(model, make_part(make_prepared(0)), config, ["mask", "encode"])
    adapter = from_numpy(part.edits[0].adapter)
    assert adapter.dtype == torch.bfloat16
    assert adapter.float().abs().min() < 1e-3
    assert (adapter != 0).all()
    run_stages(model, part, config, ["decode"])
    assert part.edits[0].image is not None


def test_out_of_memory_halves_the_edits_of_a_fit(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If four edits run out of memory, fitting two at a time gives the same fits and a note."""
    config, samples = imagic(), [make_prepared(number) for number in range(4)]
    whole = fitted(tiny_model, config, *copy.deepcopy(samples))
    network, seen = tiny_model.unbatched.network, []
    forward = network.forward

    def starved(latent: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(latent) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        seen.append(len(latent))
        return forward(latent, *args, **kwargs)

    monkeypatch.setattr(network, "forward", starved)
    edits = fitted(tiny_model, config, *samples)
    assert set(seen) == {4}
    for edit, before in zip(edits, whole, strict=True):
        assert "encode: out of memory" in edit.notes[0]
        ours, theirs = required(edit.embedding), required(before.embedding)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "form"), [(make_tiny_sdxl, "full"), (make_tiny_sd3, "lora")])
def test_every_family_is_fitted(tmp_path: Path, make: Callable[[Path], Path], form: str) -> None:
    """SDXL and Stable Diffusion 3 are fitted to a lower loss and give an image."""
    model = load_model(Model(path=str(make(tmp_path))), "cpu", Stage())
    config = imagic(form, embedding_steps=25, embedding_learning_rate=0.05, model_steps=1)
    part = run_stages(model, make_part(make_prepared(0)), config, ["mask"])
    stage, pair = ImagicFitStage(model, config.method, 0), (part.samples[0], part.edits[0])
    text = stage._texts([pair])
    tokens = stage._fit_embedding("shard", [pair], text)
    assert loss_of(stage, pair, tokens) < loss_of(stage, pair, text.tokens)
    config = imagic(form, embedding_steps=1, model_steps=1)
    run_stages(model, part, config, ["encode", "decode"])
    assert part.edits[0].image is not None
