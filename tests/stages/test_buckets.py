"""Images of several sizes in one part: each is computed as if the others were not there."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Img2ImgPipeline, StableDiffusionXLImg2ImgPipeline
from torch import Tensor

from pipeline.config.buckets import Size
from pipeline.config.config import Config
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.models.scorers import EditToScore, load_scorers
from pipeline.records.part import Part, Sample, Status
from pipeline.records.seeds import noise_seed
from tests.conftest import TOLERANCE
from tests.parts import (
    make_config,
    make_part,
    make_prepared,
    required,
    run_stages,
    same_in_pools_and_fused,
)
from tests.tiny_models import (
    load_pipeline,
    make_tiny_sd3,
    make_tiny_sdxl,
    make_tiny_stable_diffusion,
)

WIDE, HIGH, SQUARE, LONG = (48, 24), (24, 48), (32, 32), (64, 16)
MAKERS: dict[str, Callable[[Path], Path]] = {
    "sd": make_tiny_stable_diffusion,
    "sdxl": make_tiny_sdxl,
    "sd3": make_tiny_sd3,
}
RELATIVE = 1e-4  # relative to diffusers with the same weights, schedule and noise


@pytest.fixture(scope="module", params=list(MAKERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family."""
    return MAKERS[request.param](tmp_path_factory.mktemp("buckets") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> LatentDiffusion:
    return load_model(Model(path=str(folder)), "cpu", Stage())


def shaped(number: int, size: Size, *edit_texts: str) -> Sample:
    """As ``make_prepared``, with an image of another size."""
    sample = make_prepared(number, *edit_texts)
    shape = (size[1], size[0], 3)
    sample.image = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    return sample


@contextmanager
def decoded_latents(model: LatentDiffusion) -> Iterator[dict[tuple[int, int], list[Tensor]]]:
    """The latents that the decode stage passes to the VAE, by grid, in the part's order."""
    seen: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    decode = model.image_coder.decode_each

    def recording(latents: Tensor) -> list[np.ndarray | None]:
        height, width = latents.shape[-2:]
        seen[height, width] += latents
        return decode(latents)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.image_coder, "decode_each", recording)
        yield seen


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("size", [WIDE, HIGH])
def test_equal_texts_change_nothing(model: LatentDiffusion, size: Size) -> None:
    """An empty mask and an unchanged image; the neighbor with another text is edited."""
    config = make_config(mask={"num_noises": 2, "floor": 0.0, "threshold": 0.3})
    part = make_part(shaped(0, size, "a dog"), shaped(1, size, "a cat"), shaped(2, SQUARE, "a dog"))
    before = copy.deepcopy(part.samples[0].image)
    run_stages(model, part, config)
    same, other, square = part.edits
    for edit in (same, square):
        assert (edit.status, edit.stage, edit.image) == (Status.UNCHANGED, "mask", None)
        assert not required(edit.mask).any()
    scale = model.info.latent_scale
    assert required(same.mask).shape == (size[1] // scale, size[0] // scale)
    assert np.array_equal(required(part.samples[0].image), required(before))
    assert required(other.mask).any()
    assert required(other.image).shape == (size[1], size[0], 3)


def test_an_edit_ignores_neighbors_of_its_size_and_of_others(model: LatentDiffusion) -> None:
    """First, in the middle or last, wide or high: the mask is equal, the latent as allowed."""
    scale, config = model.info.latent_scale, make_config(steps=4)
    grids = {size: (size[1] // scale, size[0] // scale) for size in (WIDE, HIGH)}

    def edited(*samples: Sample) -> tuple[Part, dict[tuple[int, int], list[Tensor]]]:
        part = run_stages(model, make_part(*samples), config, ["mask", "encode"])
        with decoded_latents(model) as latents:
            run_stages(model, part, config, ["decode"])
        assert all(edit.pending for edit in part.edits)
        return part, latents

    alone = {size: edited(shaped(0, size)) for size in grids}
    others = (WIDE, SQUARE, LONG, HIGH)
    for index in (0, 2, 4):
        samples = [shaped(10 * index + n, size, "a red dog") for n, size in enumerate(others)]
        samples[index:index] = [shaped(0, size) for size in grids]
        part, latents = edited(*samples)
        for place, (size, grid) in enumerate(grids.items(), start=index):
            before, latent = alone[size]
            assert np.array_equal(required(part.edits[place].mask), required(before.edits[0].mask))
            row = others[:index].count(size)
            assert relative_error(latents[grid][row], latent[grid][0]) <= TOLERANCE[torch.float32]


def mixed() -> Part:
    samples = [shaped(0, WIDE, "a cat", "a red dog"), shaped(1, SQUARE), shaped(2, HIGH, "a fox")]
    samples += [shaped(3, WIDE, "a dog"), shaped(4, LONG, "photo of a cat")]
    samples[3].settings = {"encode_ratio": 0.4}
    return make_part(*samples)


def test_pools_and_fused_give_the_same_bytes(folder: Path) -> None:
    """A part of four sizes, with stages of separate networks and over one."""
    config = make_config(steps=2).model_copy(update={"model": Model(path=str(folder))})
    fused = same_in_pools_and_fused(config, mixed())
    for sample in fused.samples:
        for edit in sample.pending:
            assert required(edit.image).shape == required(sample.image).shape


def test_micro_batch_changes_rounding_only(model: LatentDiffusion) -> None:
    """One row per call or all rows of a size: masks are equal, and latents are close."""
    config = make_config(steps=2)
    latents, masks = [], []
    for micro_batch in (1, 32):
        part = run_stages(model.with_micro_batch(micro_batch), mixed(), config, ["mask"])
        run_stages(model, part, config, ["encode"])
        with decoded_latents(model) as seen:
            run_stages(model, part, config, ["decode"])
        latents.append(
            torch.cat([row.flatten() for _, rows in sorted(seen.items()) for row in rows])
        )
        masks.append([required(edit.mask) for edit in part.edits])
    for one, all_rows in zip(*masks, strict=True):
        assert np.array_equal(one, all_rows)
    assert relative_error(*latents) <= RELATIVE


def sdedit_beside(model: LatentDiffusion, pipeline: Any, size: Size, steps: int) -> None:
    """Compares SDEdit with diffusers' image-to-image: same latent and noise, guidance 5."""
    config = make_config(name="sdedit", steps=steps, strength=0.8, guidance_scale=5.0)
    part = make_part(shaped(1, SQUARE, "a fox"), shaped(0, size, "a cat"))
    run_stages(model, part, config, ["mask"])
    latent = torch.from_numpy(required(part.samples[1].latent))[None]
    theirs = pipeline(
        "a cat",
        image=latent,
        strength=0.8,
        num_inference_steps=steps,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(noise_seed(0, "shard", "k0", "encode")),
        output_type="latent",
    ).images[0]
    with decoded_latents(model) as seen:
        run_stages(model, part, config, ["encode", "decode"])
    height, width = latent.shape[-2:]
    assert relative_error(seen[height, width][0], theirs) <= RELATIVE


@pytest.mark.parametrize("size", [WIDE, HIGH])
def test_sdxl_equals_diffusers_at_another_shape(tmp_path: Path, size: Size) -> None:
    """Its conditions of original and target size, height first, are those of the image."""
    from diffusers import DDIMScheduler

    folder = make_tiny_sdxl(tmp_path / "model")
    model = load_model(Model(path=str(folder)), "cpu", Stage())
    pipeline = load_pipeline(StableDiffusionXLImg2ImgPipeline, folder)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    sizes = {"original_size": size[::-1], "target_size": size[::-1]}
    sdedit_beside(model, lambda *args, **kwargs: pipeline(*args, **kwargs, **sizes), size, 20)


@pytest.mark.parametrize("size", [(80, 24), (24, 80)])
def test_a_dynamic_shift_follows_the_size(tmp_path: Path, size: Size) -> None:
    """Each size has the schedule of its own number of tokens, as in diffusers' pipeline."""
    folder = make_tiny_sd3(tmp_path / "model")
    path = folder / "scheduler/scheduler_config.json"
    shift = {"base_image_seq_len": 4, "max_image_seq_len": 64, "base_shift": 0.2, "max_shift": 2.0}
    changed = json.loads(path.read_text()) | shift | {"use_dynamic_shifting": True}
    path.write_text(json.dumps(changed))
    model = load_model(Model(path=str(folder)), "cpu", Stage())
    levels = [model.schedule.for_grid(*grid).level_at(0.5).sigma for grid in ((8, 8), (6, 20))]
    assert levels[1] > levels[0] + 0.05
    pipeline = load_pipeline(StableDiffusion3Img2ImgPipeline, folder)
    sides = {"height": size[1], "width": size[0]}
    sdedit_beside(model, lambda *args, **kwargs: pipeline(*args, **kwargs, **sides), size, 20)


@pytest.mark.parametrize(
    "settings",
    [
        {"decode": {"region": "box", "context": 1, "multiple": 2}},
        {"reuse": {"interval": 2}},
        {"solver": "dpmpp_2m"},
        {"name": "sdedit", "repeats": 2, "ddim_eta": 0.5},
        {"encode": "noise", "mask": {"source": "full"}},
    ],
)
def test_every_form_of_decoding_takes_several_sizes(
    tiny_model: LatentDiffusion, settings: dict[str, Any]
) -> None:
    """Boxes, reused features, other solvers, repeats: as alone, up to rounding to uint8."""
    config = make_config(**settings)
    odd = (36, 28)  # 9 x 7 cells, which the network cannot halve without remainder
    samples = [*mixed().samples, shaped(5, odd, "a fox"), shaped(6, odd, "photo")]
    together = run_stages(tiny_model, make_part(*copy.deepcopy(samples)), config)
    assert sum(edit.image is not None for edit in together.edits) >= 7
    for number, sample in enumerate(samples):
        alone = run_stages(tiny_model, make_part(sample), config)
        for edit, expected in zip(together.samples[number].edits, alone.edits, strict=True):
            assert edit.status == expected.status
            if expected.image is not None:
                difference = required(edit.image).astype(int) - expected.image
                assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("form", ["lora", "full"])
def test_imagic_fits_and_generates_each_size(tiny_model: LatentDiffusion, form: str) -> None:
    """Two sizes in one part give what each gives alone."""
    settings: dict[str, Any] = {"form": form, "embedding_steps": 1, "model_steps": 1, "seeds": 2}
    config = Config.model_validate(
        {
            "input": {"shards": "in"},
            "output": {"path": "out"},
            "method": {"name": "imagic", "steps": 2, "imagic": settings},
        }
    )
    samples = [shaped(0, WIDE), shaped(1, HIGH, "a fox", "photo"), shaped(2, WIDE, "a red dog")]
    together = run_stages(tiny_model, make_part(*copy.deepcopy(samples)), config)
    for number, sample in enumerate(samples):
        alone = run_stages(tiny_model, make_part(sample), config)
        for edit, expected in zip(together.samples[number].edits, alone.edits, strict=True):
            assert required(edit.image).shape == required(sample.image).shape
            difference = required(edit.image).astype(int) - required(expected.image)
            assert np.abs(difference).max() <= 1


def test_memory_that_runs_out_at_one_size_halves_for_the_rest(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row says so, and the images are those of the smaller micro-batch, up to rounding."""
    config = make_config(steps=3, encode_ratio=0.7)
    expected = run_stages(tiny_model.with_micro_batch(2), mixed(), config)
    model = tiny_model.with_micro_batch(4)
    network = model.unbatched.network
    forward = network.forward

    def starved(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        if sample.shape[-1] == 16 and len(sample) > 2:  # of the longest image
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(network, "forward", starved)
    part = run_stages(model, mixed(), config)
    assert part.halvings == {"mask": 1}
    for edit, other in zip(part.edits, expected.edits, strict=True):
        if edit.pending:
            assert any("out of memory" in note for note in edit.notes)
            assert np.abs(required(edit.image).astype(int) - required(other.image)).max() <= 1


def test_scores_of_several_sizes_are_those_of_each(tmp_path: Path) -> None:
    """LPIPS compares pairs of one size together; the other scores resize by themselves."""
    from pipeline.config.load import parse_config
    from tests.tiny_scorers import make_tiny_scorers

    scores = make_tiny_scorers(tmp_path)
    tree = {"input": {"shards": "in"}, "output": {"path": "out"}, "scores": scores}
    scorers = load_scorers(parse_config(tree).scores, "cpu", Stage())
    sizes = ((96, 64), (64, 96), (96, 64), (64, 64))
    before = [required(shaped(number, size).image) for number, size in enumerate(sizes)]
    after = [255 - image for image in before]
    edits = [EditToScore(n, image, "a dog", "a cat") for n, image in enumerate(after)]
    together = scorers(before, edits)
    for number, edit in enumerate(edits):
        alone = scorers([before[number]], [EditToScore(0, edit.after, "a dog", "a cat")])[0]
        assert together[number] == pytest.approx(alone, rel=1e-4, abs=1e-5)
