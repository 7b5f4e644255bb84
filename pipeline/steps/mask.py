"""Mask inference: DiffEdit's step 1, over the pictures and the noises of a part at once.

# P pictures, M noise draws (of all levels), C channels, h w latent grid
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.latents import from_numpy, to_numpy
from pipeline.diffusion.masks import cut_mask, mask_from_pixels, relative_difference
from pipeline.diffusion.noise import add_noise, draw_noise
from pipeline.models.loading import LatentDiffusion
from pipeline.words.config import Method
from pipeline.words.records import Edit, Part, Picture, Status
from pipeline.words.seeds import noise_seed
from pipeline.words.settings import method_for, seed_for

SAME = "the model reads the two texts alike: nothing to edit"


class MaskStage:
    """Gives each picture its clean latent and each edit its mask, or ends the edit as unchanged."""

    def __init__(self, model: LatentDiffusion, method: Method, run_seed: int) -> None:
        self.model, self.method, self.run_seed = model, method, run_seed

    @torch.inference_mode()
    def __call__(self, part: Part) -> Part:
        pictures = [picture for picture in part.pictures if picture.pending and self._fit(picture)]
        if not pictures:
            return part
        self._encode_pictures(pictures)
        pictures = [picture for picture in pictures if picture.pending]
        infer = [picture for picture in pictures if self._needs_inference(picture)]
        for picture in pictures:
            if not self._needs_inference(picture):
                self._take_mask(picture)
        if infer:
            self._infer(part.shard, infer)
        return part

    def _fit(self, picture: Picture) -> bool:
        """Fails a picture whose own settings are out of range."""
        try:
            method_for(self.method, picture)
            seed_for(self.run_seed, picture)
        except ValueError as error:
            picture.fail("mask", error)
            return False
        return True

    def _encode_pictures(self, pictures: list[Picture]) -> None:
        """The clean latent of each picture, once for all of its edits."""
        latents = self.model.pictures.encode([picture.image for picture in pictures])
        for picture, latent in zip(pictures, latents, strict=True):
            if bool(latent.isfinite().all()):
                picture.latent = to_numpy(latent)
            else:
                picture.fail("mask", "NonFinite", "the VAE gives a latent that is not finite")

    def _needs_inference(self, picture: Picture) -> bool:
        return picture.supplied_mask is None and self.method.mask.source == "infer"

    def _take_mask(self, picture: Picture) -> None:
        """The supplied mask on the latent grid, or all of it."""
        grid = picture.latent.shape[-2:]
        if picture.supplied_mask is None:
            mask = np.ones(grid, np.float32)
        else:
            pixels = torch.from_numpy(picture.supplied_mask)
            mask = to_numpy(mask_from_pixels(pixels, grid, soft=self.method.mask.soft))
        for edit in picture.pending:
            edit.mask = mask
            if not mask.any():
                _unchanged(edit, "the supplied mask is empty")

    def _infer(self, shard: str, pictures: list[Picture]) -> None:
        """Reference halves once a picture, target halves once an edit; both at every level."""
        settings = self.method.mask
        noisy = [self._noisy(shard, picture) for picture in pictures]
        captions = [
            (picture.caption or "") if settings.reference == "caption" else ""
            for picture in pictures
        ]
        eps_source = self._eps(noisy, captions)
        self._note_truncation(pictures)
        most = max(len(picture.pending) for picture in pictures)
        edits = [picture.pending for picture in pictures]
        for turn in range(most):
            chosen = [place for place in range(len(pictures)) if turn < len(edits[place])]
            texts = [edits[place][turn].edit_text or "" for place in chosen]
            eps_target = self._eps([noisy[place] for place in chosen], texts)
            for place, eps in zip(chosen, eps_target, strict=True):
                edit = edits[place][turn]
                num_draws = len(eps)
                edit.num_evals_mask = num_draws * (2 if turn == 0 else 1)
                self._cut(edit, relative_difference(eps_source[place], eps))

    def _noisy(self, shard: str, picture: Picture) -> list[Tensor]:
        """The picture's latent under M noises at each level: a list of (M, C, h, w).

        The noise does not depend on the edit: the reference half is shared by all of them.
        """
        settings = self.method.mask
        latent = from_numpy(picture.latent)
        seed = noise_seed(seed_for(self.run_seed, picture), shard, picture.key, "mask")
        shape = (len(settings.noise_level), settings.num_noises, *latent.shape)
        noises = draw_noise(seed, shape)
        levels = [self.model.schedule.level_at(share) for share in settings.noise_level]
        return [
            add_noise(latent, noise, level).to(self.model.device)
            for noise, level in zip(noises, levels, strict=True)
        ]

    def _eps(self, noisy: list[list[Tensor]], texts: list[str]) -> Tensor:
        """(P, M, C, h, w): the noise predicted for each picture with its text, all levels."""
        condition = self.model.text.encode(texts)
        by_level = []
        for number, share in enumerate(self.method.mask.noise_level):
            level = self.model.schedule.level_at(share)
            rows = torch.stack([levels[number] for levels in noisy])
            num_draws = rows.shape[1]
            repeated = Condition(condition.tokens.repeat_interleave(num_draws, dim=0))
            eps = self.model.denoiser(rows.flatten(0, 1), level, repeated)
            by_level.append(eps.unflatten(0, rows.shape[:2]))
        return torch.cat(by_level, dim=1)

    def _cut(self, edit: Edit, difference: Tensor) -> None:
        if not bool(difference.isfinite().all()):
            edit.fail("mask", "NonFinite", "the network's noise prediction is not finite")
            return
        settings = self.method.mask
        mask, values = cut_mask(
            difference,
            rule=settings.rule,
            threshold=settings.threshold,
            clamp_percentile=settings.clamp_percentile,
            floor=settings.floor,
            smooth_sigma=settings.smooth,
            dilate=settings.dilate,
            soft=settings.soft,
        )
        edit.mask, edit.difference = to_numpy(mask), to_numpy(values)
        if not edit.mask.any():
            _unchanged(edit, SAME)

    def _note_truncation(self, pictures: list[Picture]) -> None:
        for picture in pictures:
            if self.method.mask.reference == "caption" and self.model.text.is_truncated(
                picture.caption or ""
            ):
                for edit in picture.pending:
                    edit.notes.append(f"caption cut at {self.model.text.max_tokens} tokens")


def _unchanged(edit: Edit, message: str) -> None:
    edit.status, edit.stage, edit.message = Status.UNCHANGED, "mask", message
