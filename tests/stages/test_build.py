"""Whole methods: numbers of network evaluations, determinism, and comparison with diffusers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from pipeline.config.config import Config
from pipeline.config.model import Model
from pipeline.config.stages import STAGES, Stage
from pipeline.execution.operators import Operator, compute_part
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.records.part import Status
from pipeline.stages.build import build_stage, load_stages
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
from tests.tiny_models import make_tiny_stable_diffusion

TEXTS = ("a cat", "a red dog", "photo of a square")


def with_model(config: Config, folder: Path, **model: object) -> Config:
    """The configuration with a model folder."""
    tree = config.model_dump() | {"model": {"path": str(folder), **model}}
    return Config.model_validate(tree)


def test_first_edit_costs_140_evaluations_and_each_further_one_90(
    tiny_model: LatentDiffusion,
) -> None:
    """At r = 0.8, 50 steps and 10 noises, counted at the network and reported in the rows."""
    config = make_config(steps=50, mask={})
    with counted(tiny_model) as rows:
        run_stages(tiny_model, make_part(make_prepared(0, TEXTS[0])), config)
    assert sum(rows) == 140
    with counted(tiny_model) as rows:
        part = run_stages(tiny_model, make_part(make_prepared(0, *TEXTS)), config)
    assert sum(rows) == 140 + 90 + 90
    counts = [(e.num_evals_mask, e.num_evals_encode, e.num_evals_decode) for e in part.edits]
    assert counts == [(20, 40, 80), (10, 0, 80), (10, 0, 80)]


def test_no_evaluation_is_repeated(tiny_model: LatentDiffusion) -> None:
    """An unchanged edit costs only its reference; equal edit texts share one mask inference."""
    config = make_config()
    with counted(tiny_model) as rows:
        part = run_stages(
            tiny_model, make_part(make_prepared(0, "A dog", "a cat", "a cat", "a dog")), config
        )
    assert [edit.num_evals_mask for edit in part.edits] == [2, 2, 0, 0]
    assert [edit.num_evals_encode for edit in part.edits] == [0, 4, 0, 0]
    assert [edit.num_evals_decode for edit in part.edits] == [0, 8, 8, 0]
    assert sum(rows) == 24
    first, second = part.edits[1:3]
    assert np.array_equal(required(first.mask), required(second.mask))
    assert np.abs(required(first.image).astype(int) - required(second.image)).max() <= 1


def test_no_network_call_exceeds_the_micro_batch(tiny_model: LatentDiffusion) -> None:
    """The limit holds for many edits per part, and with the rows that guidance doubles."""
    samples = [make_prepared(n, *TEXTS) for n in range(3)]
    with counted(tiny_model.with_micro_batch(5)) as rows:
        run_stages(tiny_model.with_micro_batch(5), make_part(*samples), make_config())
    assert max(rows) == 5


def test_guidance_of_one_halves_the_decoding(tiny_model: LatentDiffusion) -> None:
    """Without guidance the negative half is not computed."""
    part = run_stages(tiny_model, make_part(make_prepared(0)), make_config(guidance_scale=1.0))
    assert part.edits[0].num_evals_decode == 4


@pytest.mark.parametrize("name", ["diffedit", "sdedit"])
def test_same_part_gives_the_same_bytes(tiny_model: LatentDiffusion, name: str) -> None:
    """Masks, difference maps and images of two runs over one part are equal bit for bit."""
    fresh = make_part(make_prepared(0, *TEXTS), make_prepared(1, "a dog", "a cat"))
    once, twice = (
        to_bytes(run_stages(tiny_model, copy.deepcopy(fresh), make_config(name=name)))
        for _ in range(2)
    )
    assert once == twice


@pytest.mark.parametrize(
    ("method", "pools"),
    [
        ({}, ("mask", "encode", "decode")),
        ({"encode": "noise"}, ("mask", "decode")),
        ({"mask": {"source": "full"}}, ("encode", "decode")),
        ({"name": "sdedit"}, ("decode",)),
    ],
    ids=["all", "no encoding", "no mask", "sdedit"],
)
def test_pools_and_fused_give_the_same_bytes(
    method: dict[str, Any], pools: tuple[str, ...], tiny_model_folder: Path
) -> None:
    """Stages with separate networks and a serialized part equal stages over one network.

    A stage that asks the network nothing has no pool.
    """
    config = with_model(make_config(**method), tiny_model_folder)
    assert config.pools == pools
    same_in_pools_and_fused(
        config, make_part(make_prepared(0, *TEXTS), make_prepared(1, "a dog", "a cat"))
    )


def test_every_stage_computes_with_the_threads_of_the_smallest_pool(
    tiny_model_folder: Path,
) -> None:
    """All stages use the same number of threads, even if an actor has more cores."""
    before = torch.get_num_threads()
    config = with_model(make_config(), tiny_model_folder)
    owned = {"mask": 2.0, "encode": 2.5, "decode": 4.0}
    for name, cpus in owned.items():
        config = config.model_copy(update={"stages": config.stages.updated([name], cpus=cpus)})
    try:
        for name in STAGES:
            torch.set_num_threads(1)
            load_stages(config, name, "cpu")
            assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        load_stages(config, "fused", "cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_plain_loop_edits_parts(tiny_model_folder: Path) -> None:
    """All stages of a method take a part from prepared images to edited ones."""
    stages = load_stages(with_model(make_config(), tiny_model_folder), "fused", "cpu")
    operators = [Operator(name, stage) for name, stage in stages.items()]
    parts = [compute_part(make_part(make_prepared(n)), operators) for n in range(2)]
    assert all(part.edits[0].image is not None for part in parts)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_type_edits(tmp_path: Path, prediction_type: str) -> None:
    """One denoising step equals diffusers' step for each prediction type, and stages run."""
    folder = make_tiny_stable_diffusion(tmp_path / "model", prediction_type)
    model = load_model(Model(path=str(folder)), "cpu", Stage())
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    assert scheduler.config.prediction_type == prediction_type
    scheduler.set_timesteps(50)
    level, below = model.schedule.levels(50)[31], model.schedule.levels(50)[30]
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = model.text.encode(["a cat", "a dog"])
    with torch.inference_mode():
        raw = model.unbatched.network(latent, int(level.timestep), text.tokens).sample
        eps = model.denoiser(latent, level, text)
    theirs = scheduler.step(raw, int(level.timestep), latent).prev_sample
    ours = below.alpha * (latent / level.alpha + (below.tau - level.tau) * eps)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4
    part = run_stages(model, make_part(make_prepared(0, "a cat", "a dog")), make_config())
    assert part.edits[0].image is not None
    assert part.edits[1].status is Status.UNCHANGED


def test_ablations_are_settings(tiny_model: LatentDiffusion) -> None:
    """Leaving out mask or encoding is a setting of diffedit, and changes the image."""
    images = []
    for settings in ({}, {"mask": {"source": "full"}}, {"encode": "noise"}):
        part = run_stages(tiny_model, make_part(make_prepared(0)), make_config(**settings))
        images.append(required(part.edits[0].image).astype(int))
    assert np.abs(images[0] - images[1]).max() > 1
    assert np.abs(images[0] - images[2]).max() > 1


def test_each_stage_encodes_a_text_once_per_part(tiny_model: LatentDiffusion) -> None:
    """All images, edits, ratios and guidance scales of a part share the encoded text."""
    samples = [make_prepared(n, "a cat", "A  CAT", "a red dog", caption="a dog") for n in range(4)]
    samples[1].settings = {"guidance_scale": 1.0}
    samples[2].settings = {"encode_ratio": 0.4}
    part, texts = make_part(*samples), {}
    for name in STAGES:
        rows: list[int] = []
        hook = tiny_model.text.towers[0].encoder.register_forward_pre_hook(
            lambda module, args, options, rows=rows: rows.append(len(args[0])), with_kwargs=True
        )
        run_stages(tiny_model, part, make_config(negative_text="photo"), [name])
        hook.remove()
        texts[name] = sum(rows)
    assert texts == {"mask": 3, "encode": 1, "decode": 3}
    assert {edit.num_evals_decode for edit in part.edits} == {8, 4}


@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_the_host_waits_as_often_for_many_edits_as_for_one(
    stage: str, tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether results are finite is asked once, since each question waits for the device."""
    config = make_config()

    def questions(num_samples: int) -> int:
        before = ["mask", "encode"][: STAGES.index(stage)]
        part = make_part(*(make_prepared(number) for number in range(num_samples)))
        part = run_stages(tiny_model, part, config, before)
        built, ask, asked = build_stage(config, stage, tiny_model), torch.Tensor.__bool__, 0

        def counted(tensor: torch.Tensor) -> bool:
            nonlocal asked
            asked += 1
            return ask(tensor)

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "__bool__", counted)
            part = built(part)
        assert all(edit.pending for edit in part.edits)
        return asked

    assert questions(5) == questions(1)
