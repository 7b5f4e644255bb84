"""Training on edits: they equal the product's edits, and the loss has the right targets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from jobs.train_demo.edits import EditBatch, draw_edits, edited_latents, target_pixels
from jobs.train_demo.export import BUNDLED
from jobs.train_demo.latents import CachedPairs, training_edit
from jobs.train_demo.unet import build_scheduler, load_networks
from jobs.train_demo.vae import pixels_of
from pipeline.config.mask import Mask
from pipeline.config.method import Method
from pipeline.demo.editor import edited_latents as product_latents
from pipeline.demo.editor import load_demo_model, masked_part
from pipeline.demo.edits import FAINT, sample_edit, true_mask
from pipeline.demo.vocabulary import MAX_LENGTH
from pipeline.diffusion.schedule import Schedule

SCHEDULE = Schedule.from_config(build_scheduler().config)
ALWAYS = {"local": 1.0, "unchanged": 0.0, "grown": 0.5}


def test_training_edits_equal_those_of_the_stages() -> None:
    """Encoding, mask and decoding give the same latents, and gradients reach the UNet."""
    model = load_demo_model()
    method = Method(
        steps=10, encode_ratio=0.5, guidance_scale=1, mask=Mask(num_noises=2, threshold=0.3)
    )
    edits = [sample_edit(5, "heldout", index, kinds=("color", "shape")) for index in range(3)]
    part = masked_part(model, edits, method, seed=0)
    wanted = [torch.from_numpy(one) for one in product_latents(model, part, method, seed=0)]

    tokenizer = CLIPTokenizer.from_pretrained(BUNDLED / "tokenizer")

    def ids(texts: list[str]) -> Tensor:
        settings = {"padding": "max_length", "max_length": MAX_LENGTH, "return_tensors": "pt"}
        return tokenizer(texts, **settings).input_ids

    network = load_networks(BUNDLED)
    rows = [(image, image.edits[0]) for image in part.samples]
    before = torch.from_numpy(np.stack([np.asarray(image.latent) for image, _ in rows]))
    inside = torch.from_numpy(np.stack([np.asarray(row.mask) for _, row in rows]))[:, None]
    rows_N = torch.arange(3)
    batch = EditBatch(
        rows_N, rows_N, rows_N > 3, before, ids([edit.edit_text for edit in edits]), inside
    )
    latents = edited_latents(network, batch, ids([""]), SCHEDULE.levels(10, 0.5))
    torch.testing.assert_close(latents, torch.stack(wanted), rtol=0, atol=2e-3)
    latents.sum().backward()
    assert network.unet.conv_in.weight.grad.abs().sum() > 0


def test_drawn_edits_target_the_other_image_or_the_input() -> None:
    """The settings decide; the text describes the target, and masks cover what differs."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(16, 2, 4, 6, 6, generator=generator).half()
    latents[..., 2:] = latents[:, :1, ..., 2:]  # only two columns differ
    tokens = torch.arange(32).reshape(16, 2, 1, 1).expand(16, 2, 3, 5).to(torch.int16)
    pairs = CachedPairs(latents, tokens, torch.full((5,), 99))

    drawn = draw_edits(pairs, ALWAYS, 64, generator)
    row, side = drawn.ids[:, 0] // 2, drawn.ids[:, 0] % 2
    assert torch.equal(row, drawn.rows_N)
    assert torch.equal(side, drawn.side_N)
    assert torch.equal(drawn.before, latents[row, 1 - side].float())
    assert not drawn.inside[..., 3:].any()
    grown = drawn.inside[..., 2].flatten(1).any(1).float().mean()
    assert 0.2 < grown < 0.8

    assert (drawn.rows_N % 5 < 3).all()

    drawn = draw_edits(pairs, ALWAYS | {"unchanged": 1.0}, 64, generator)
    assert torch.equal(drawn.before, latents[drawn.rows_N, drawn.side_N].float())
    assert drawn.same_N.all()
    assert 0.2 < (drawn.ids[:, 0] == 99).float().mean() < 0.8

    drawn = draw_edits(pairs, ALWAYS | {"local": 0.0, "grown": 0.0}, 64, generator)
    assert not (drawn.rows_N % 5 < 3).all()
    assert not drawn.inside[..., 2:].any()


def test_target_pixels_are_those_of_the_pairs() -> None:
    """They are of the wanted side; if the input is already the target, all pixels must stay."""
    rows, sides, same = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0]), torch.tensor([0, 0, 1])
    unused = torch.empty(0)
    after, kept = target_pixels(EditBatch(rows, sides, same.bool(), unused, unused, unused), 2)
    first, second = training_edit(2, 0), training_edit(2, 1)
    assert torch.equal(after, pixels_of([first.target, second.source, second.source]))
    assert 0.5 < kept[0].float().mean() < 1
    assert kept[2].all()
    differs = true_mask(first, differs=FAINT)
    assert (kept[0, 0].numpy() == ~differs).all()
