"""Stage `latents`: draws, encodes and captions scenes before and after an edit, once for all.

# N pairs, C latent channels, h w latent grid, L tokens; 2 = (before, after).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from jobs.train_demo.loop import device_of, wait_for_workers, worker
from jobs.train_demo.vae import encode_means, pixels_of
from pipeline.demo.captions import PHRASINGS, caption
from pipeline.demo.edits import KINDS, Edit, sample_edit
from pipeline.demo.vocabulary import MAX_LENGTH, write_tokenizer
from pipeline.demo.world import split_of

_CHUNK = 64
# Offset to another edit of the same kind; larger than any number of pairs.
_STRIDE = len(KINDS) * 1_000_000_007


def training_edit(seed: int, index: int) -> Edit:
    """The training edit number `index`; kinds take turns, and neither scene is held out."""
    number = index
    while True:
        edit = sample_edit(seed, "train", number)
        if split_of(edit.target) == "train":
            return edit
        number += _STRIDE


def encode_latents(settings: dict[str, Any], folder: Path) -> None:
    """Writes latents.npy (N, 2, C, h, w) float16, scaled; tokens.npy (N, 2, phrasings, L) int16.

    The workers share the files; each takes every world-th chunk.
    """
    vae = AutoencoderKL.from_pretrained(
        folder / "joins" / "model", torch_dtype=torch.float32, trust_remote_code=False
    )
    write_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False)
    rank, world = worker()
    count, channels = settings["pairs"], vae.config.latent_channels
    shapes = {
        "latents.npy": (np.float16, (count, 2, channels, 16, 16)),
        "tokens.npy": (np.int16, (count, 2, len(PHRASINGS), MAX_LENGTH)),
    }
    if rank == 0:
        for name, (dtype, shape) in shapes.items():
            np.lib.format.open_memmap(folder / name, "w+", dtype, shape)
    wait_for_workers()
    latents, tokens = (np.load(folder / name, mmap_mode="r+") for name in shapes)
    for first in range(rank * _CHUNK, count, world * _CHUNK):
        numbers = range(first, min(first + _CHUNK, count))
        edits = [training_edit(settings["seed"], number) for number in numbers]
        scenes = [scene for edit in edits for scene in (edit.source, edit.target)]
        with torch.autocast(device_of(vae).type, torch.bfloat16):
            encoded = encode_means(vae, pixels_of(scenes))
        rows = slice(first, first + len(edits))
        latents[rows] = encoded.numpy().reshape(-1, *latents.shape[1:]) * vae.config.scaling_factor
        texts = [caption(scene, phrasing) for scene in scenes for phrasing in range(len(PHRASINGS))]
        ids = tokenizer(
            texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="np"
        )
        tokens[rows] = ids.input_ids.reshape(-1, *tokens.shape[1:])
        if rank == 0 and first % (world * _CHUNK * 20) == 0:
            print(f"encoded {first} of {count} pairs", flush=True)
    latents.flush()
    tokens.flush()
    wait_for_workers()


@dataclass(frozen=True)
class CachedPairs:
    """The pairs that `encode_latents` has written.

    Attributes:
        latents: (P, 2, C, h, w) float16, scaled; 2 = (before, after).
        tokens: (P, 2, phrasings, L) int16.
        empty_L: tokens of the empty text.
    """

    latents: Tensor
    tokens: Tensor
    empty_L: Tensor

    @classmethod
    def load(cls, folder: Path) -> CachedPairs:
        """Reads the files from the folder of a training run."""
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False)
        empty = tokenizer("", padding="max_length", max_length=MAX_LENGTH).input_ids
        latents, tokens = (np.load(folder / name) for name in ("latents.npy", "tokens.npy"))
        return cls(torch.from_numpy(latents), torch.from_numpy(tokens), torch.tensor(empty))

    def texts(self, rows_N: Tensor, side_N: Tensor, generator: torch.Generator) -> Tensor:
        """Tokens of the captions in random phrasings: (N, L) int64."""
        count = self.tokens.shape[2]
        phrasing_N = torch.randint(count, rows_N.shape, generator=generator)
        return self.tokens[rows_N, side_N, phrasing_N].long()
