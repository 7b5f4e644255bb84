"""The bundled model: its folder loads in diffusers, is small, and edits the demo world well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import pipeline.demo
from pipeline.config.load import load_config
from pipeline.config.mask import Mask
from pipeline.config.method import Method
from pipeline.demo.backgrounds import BACKGROUNDS
from pipeline.demo.editor import edited_latents, load_demo_model, masked_part, outcomes
from pipeline.demo.edits import FAINT, mask_on_grid, sample_edit, true_mask
from pipeline.demo.measures import mask_iou, psnr
from pipeline.demo.readback import (
    confirms_edit,
    confirms_rest,
    load_reader,
    read_images,
    reading_of,
)
from pipeline.demo.vocabulary import END, MAX_LENGTH, world_words, write_tokenizer
from pipeline.demo.world import paint, sample_scene
from pipeline.models.loading import LatentDiffusion
from pipeline.models.network import NetworkDenoiser
from pipeline.records.part import Status
from tests.parts import required

FOLDER = Path(pipeline.demo.__file__).parent / "model"
SCENES = [sample_scene(5, "heldout", index) for index in range(64)]


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return load_demo_model(FOLDER, threads=torch.get_num_threads())


@pytest.fixture(scope="module")
def latents(model: LatentDiffusion) -> Tensor:
    """(64, 4, 16, 16): of the held-out scenes."""
    with torch.inference_mode():
        return model.image_coder.encode([paint(scene) for scene in SCENES])


def test_tokenizer_has_one_token_for_every_word(tmp_path: Path) -> None:
    """Each word is one token in upper and lower case; unknown words fall back to letters."""
    from transformers import CLIPTokenizer

    write_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    for word in (*world_words(), *" ".join(BACKGROUNDS).split()):
        assert len(tokenizer(word).input_ids) == 3, word
        assert tokenizer(word.upper()).input_ids == tokenizer(word).input_ids
    assert len(tokenizer("zebra").input_ids) > 3
    assert tokenizer.model_max_length == MAX_LENGTH
    assert tokenizer.pad_token == END


def test_stable_diffusion_pipeline_loads_and_generates() -> None:
    """The folder has the format of the real models, and runs in float32."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(FOLDER, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image = pipe("a red star on the sea", num_inference_steps=3, generator=generator).images[0]
    assert image.size == (128, 128)
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.float32


def test_folder_is_small_and_has_no_pickle() -> None:
    """The folder has less than 25 MB, safetensors weights and a model card."""
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25_000_000
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert "apache-2.0" in (FOLDER / "README.md").read_text()


def test_unet_call_costs_at_most_0_7_gflop(model: LatentDiffusion) -> None:
    """torch counts the FLOPs of one image; this bound keeps the demo fast."""
    denoiser = model.unbatched
    assert isinstance(denoiser, NetworkDenoiser)
    tokens = torch.zeros(1, MAX_LENGTH, denoiser.network.config.cross_attention_dim)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        denoiser.network(torch.zeros(1, 4, 16, 16), 500, tokens)
    assert counter.get_total_flops() <= 0.7e9


def test_vae_reconstructs_heldout_images(model: LatentDiffusion, latents: Tensor) -> None:
    """The mean PSNR of images that it was not trained on is at least 30 dB."""
    images = [paint(scene) for scene in SCENES[:32]]
    with torch.inference_mode():
        decoded = model.image_coder.decode(latents[:32])
    values = [psnr(*pair) for pair in zip(images, decoded, strict=True)]
    assert np.mean(values) >= 30


def test_latents_have_unit_variance(latents: Tensor) -> None:
    """The scaling factor normalizes the VAE's latents, as the noise schedule expects."""
    assert latents.std().item() == pytest.approx(1.0, abs=0.15)
    assert latents.mean().item() == pytest.approx(0.0, abs=0.15)


def test_edit_hardly_changes_latents_beside_the_object(model: LatentDiffusion) -> None:
    """Cells next to a changed object change by 0.1 standard deviations (without `joins`: 0.3)."""
    edits = [sample_edit(5, "heldout", index, kinds=("color", "shape")) for index in range(32)]
    changed = np.stack([true_mask(edit, differs=FAINT) for edit in edits])
    cells = torch.from_numpy(np.stack([mask_on_grid(mask, share=1e-9) for mask in changed]))[
        :, None
    ]
    beside = (F.max_pool2d(cells.float(), 3, stride=1, padding=1) > 0) & ~cells
    with torch.inference_mode():
        before = model.image_coder.encode([paint(edit.source) for edit in edits])
        after = model.image_coder.encode([paint(edit.target) for edit in edits])
    moved = (before - after).square().mean(1, keepdim=True)[beside].mean().sqrt()
    assert moved.item() < 0.15


def test_reader_reads_heldout_scenes() -> None:
    """At least 98 percent of 300 scenes are read correctly, background and every object."""
    reader = load_reader()
    scenes = [sample_scene(6, "heldout", index) for index in range(300)]
    readings = read_images(reader, np.stack([paint(scene) for scene in scenes]))
    right = [reading == reading_of(scene) for reading, scene in zip(readings, scenes, strict=True)]
    assert np.mean(right) >= 0.98


def test_reader_refuses_another_size() -> None:
    """The error names the given shape and what is needed."""
    with pytest.raises(ValueError, match=r"uint8 \(N, 128, 128, 3\)"):
        read_images(load_reader(), np.zeros((1, 64, 64, 3), np.uint8))


def test_masks_of_color_edits_find_the_object(model: LatentDiffusion) -> None:
    """The mean IoU of inferred masks and true masks is above 0.5."""
    edits = [sample_edit(3, "heldout", index, kinds=("color",)) for index in range(8)]
    part = masked_part(model, edits, Method(steps=5, mask=Mask(num_noises=6)), seed=0)
    overlaps = [
        mask_iou(required(row.mask) > 0, mask_on_grid(true_mask(edit)))
        for row, edit in zip(part.edits, edits, strict=True)
    ]
    assert np.mean(overlaps) > 0.5


def test_color_edits_show_the_wanted_color(model: LatentDiffusion) -> None:
    """With the demo's settings and fewer steps, at least 85 percent of 32 edits are confirmed."""
    method = load_config("demo", ["method.steps=20", "method.mask.num_noises=5"]).method
    edits = [sample_edit(7, "heldout", index, kinds=("color",)) for index in range(32)]
    done = outcomes(model, masked_part(model, edits, method, seed=0), method, seed=0)
    readings = read_images(load_reader(), np.stack([outcome.image for outcome in done]))
    pairs = list(zip(readings, edits, strict=True))
    assert np.mean([confirms_edit(*pair) for pair in pairs]) >= 0.85
    assert np.mean([confirms_rest(*pair) for pair in pairs]) >= 0.95


def test_edits_are_confirmed_and_preserve_the_background(model: LatentDiffusion) -> None:
    """With the demo's settings and fewer noises: 90 percent confirmed, 0.8 dB below the VAE.

    Both are tested together, because a model that edits less preserves more.
    """
    method = load_config("demo", ["method.mask.num_noises=5"]).method
    kinds = ("color", "shape", "object")
    edits = [sample_edit(8, "heldout", index, kinds=kinds) for index in range(30)]
    done = outcomes(model, masked_part(model, edits, method, seed=0), method, seed=0)
    images = [paint(edit.source) for edit in edits]
    with torch.inference_mode():
        decoded = model.image_coder.decode(model.image_coder.encode(images))
    below = [
        psnr(own, image, kept) - psnr(outcome.image, image, kept)
        for own, outcome, image, edit in zip(decoded, done, images, edits, strict=True)
        for kept in [~true_mask(edit, differs=FAINT)]
    ]
    readings = read_images(load_reader(), np.stack([outcome.image for outcome in done]))
    confirmed = [confirms_edit(*pair) for pair in zip(readings, edits, strict=True)]
    assert np.mean(confirmed) >= 0.9
    assert np.mean(below) <= 0.8


def test_methods_can_share_a_masked_part(model: LatentDiffusion) -> None:
    """``outcomes`` does not change the part, and full masks cover everything."""
    edits = [sample_edit(3, "heldout", index, kinds=("color",)) for index in range(2)]
    method = Method(steps=4, encode_ratio=0.5, mask=Mask(num_noises=2))
    part = masked_part(model, edits, method, seed=0)
    first = outcomes(model, part, method, seed=0)
    again = outcomes(model, part, method, seed=0)
    assert all((a.image == b.image).all() for a, b in zip(first, again, strict=True))
    assert all(row.image is None for row in part.edits)


def test_edited_latents_decode_to_the_outcomes(model: LatentDiffusion) -> None:
    """The latents decode to the images of ``outcomes``; an edit with an empty mask has none."""
    edits = [sample_edit(3, "heldout", index, kinds=("color",)) for index in range(3)]
    method = Method(steps=4, encode_ratio=0.5, mask=Mask(num_noises=2))
    part = masked_part(model, edits, method, seed=0)
    part.edits[1].mask = np.zeros_like(required(part.edits[1].mask))
    part.edits[1].status = Status.UNCHANGED
    latents = edited_latents(model, part, method, seed=0)
    assert latents[1] is None
    for number in (0, 2):
        with torch.inference_mode():
            latent = torch.from_numpy(required(latents[number]))
            decoded = model.image_coder.decode(latent[None])[0]
        wanted = outcomes(model, part, method, seed=0)[number].image
        assert psnr(decoded, wanted) > 60
