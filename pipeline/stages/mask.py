"""Mask inference: DiffEdit's step 1, for all images and noises of a part at once.

# R rows (an image with one text), L noise levels, M noise draws, C channels, h w latent grid
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from pipeline.config.method import Method
from pipeline.config.sample_settings import method_for, seed_for
from pipeline.diffusion.denoiser import Repeated
from pipeline.diffusion.latents import from_numpy, to_numpy
from pipeline.diffusion.masks import cut_mask, mask_from_pixels, relative_difference
from pipeline.diffusion.noise import add_noise, draw_noise
from pipeline.diffusion.transfer import Download, upload
from pipeline.models.loading import LatentDiffusion
from pipeline.models.text import TokenIds
from pipeline.records.part import Edit, Part, Sample, Status
from pipeline.records.seeds import noise_seed

SAME = "the model does not distinguish the two texts: nothing to edit"

Query = tuple[int, TokenIds]  # a noise prediction: the sample's index in the part, a text's tokens


class MaskStage:
    """Sets each sample's clean latent and each edit's mask; an empty mask ends it as unchanged."""

    def __init__(self, model: LatentDiffusion, method: Method, run_seed: int) -> None:
        self.model, self.method, self.run_seed = model, method, run_seed

    @torch.inference_mode()
    def __call__(self, part: Part) -> Part:
        part.device = self.model.device_kind
        pending = [sample for sample in part.samples if sample.pending]
        samples = [sample for sample in pending if self._has_valid_settings(sample)]
        if not samples:
            return part
        self._encode_samples(samples)
        samples = [sample for sample in samples if sample.pending]
        infer = [sample for sample in samples if self._needs_inference(sample)]
        for sample in samples:
            if not self._needs_inference(sample):
                self._use_given_mask(sample)
        if infer:
            self._infer(part.shard, infer)
        return part

    def _has_valid_settings(self, sample: Sample) -> bool:
        """Fails a sample whose own settings are out of range; returns whether they are valid."""
        try:
            method_for(self.method, sample)
            seed_for(self.run_seed, sample)
        except ValueError as error:
            sample.fail("mask", "BadSettings", str(error))
            return False
        return True

    def _encode_samples(self, samples: list[Sample]) -> None:
        """Encodes each image once for all of its edits."""
        groups: dict[tuple[int, ...], list[Sample]] = defaultdict(list)
        for sample in samples:
            groups[_pixels(sample).shape].append(sample)
        for _, group in sorted(groups.items()):
            latents = self.model.image_coder.encode([_pixels(sample) for sample in group])
            finite = Download(latents.isfinite().flatten(1).all(1))
            arrays = to_numpy(Download(latents).wait())
            for sample, array, good in zip(group, arrays, finite.wait().tolist(), strict=True):
                if good:
                    sample.latent = array
                else:
                    sample.fail("mask", "NonFinite", "the VAE gives a latent that is not finite")

    def _needs_inference(self, sample: Sample) -> bool:
        return sample.supplied_mask is None and self.method.mask.source == "infer"

    def _use_given_mask(self, sample: Sample) -> None:
        """Sets the supplied mask on the latent grid, or a mask of the whole image."""
        grid = sample.grid
        if sample.supplied_mask is None:
            mask = np.ones(grid, np.float32)
        else:
            pixels = from_numpy(sample.supplied_mask)
            mask = to_numpy(mask_from_pixels(pixels, grid, soft=self.method.mask.soft))
        for edit in sample.pending:
            edit.mask = mask
            if not mask.any():
                _unchanged(edit, _why_empty(sample.supplied_mask))

    def _infer(self, shard: str, samples: list[Sample]) -> None:
        """Infers masks. Predicts the noise once for each image and distinct token sequence.

        So all edits of an image share the reference's prediction, and an edit text with the
        reference's tokens gets the very same prediction.
        """
        noisy = [self._noisy(shard, sample) for sample in samples]
        queries: dict[Query, str] = {}  # with a text that has these tokens
        references: list[Query] = []
        edits: list[tuple[Edit, Query]] = []
        num_draws = self.method.mask.num_noises * len(self.method.mask.noise_level)
        for index, sample in enumerate(samples):
            caption = (sample.caption or "") if self.method.mask.reference == "caption" else ""
            num_before = len(queries)
            references.append((index, self.model.text.token_ids(caption)))
            queries.setdefault(references[index], caption)
            for edit in sample.pending:
                text = edit.edit_text or ""
                self._note_truncation(edit, caption, text)
                edits.append((edit, (index, self.model.text.token_ids(text))))
                queries.setdefault(edits[-1][1], text)
                edit.num_evals_mask = num_draws * (len(queries) - num_before)
                num_before = len(queries)
        eps = self._eps([noisy[index] for index, _ in queries], list(queries.values()))
        row_of = {query: row for row, query in enumerate(queries)}
        differences = [
            Download(self._difference(eps[row_of[references[query[0]]]], eps[row_of[query]]))
            for _, query in edits
        ]
        for (edit, _), difference in zip(edits, differences, strict=True):
            self._cut(edit, difference.wait())

    def _noisy(self, shard: str, sample: Sample) -> list[Tensor]:
        """The image's latent with M noises at each level: a list of (M, C, h, w).

        The noise does not depend on the edit, so that all edits share the reference's prediction.
        """
        settings = self.method.mask
        latent = from_numpy(sample.latent)
        seed = noise_seed(seed_for(self.run_seed, sample), shard, sample.key, "mask")
        shape = (len(settings.noise_level), settings.num_noises, *latent.shape)
        noises = draw_noise(seed, shape)
        schedule = self.model.schedule.for_grid(*sample.grid)
        levels = [schedule.level_at(share) for share in settings.noise_level]
        return [
            upload(add_noise(latent, noise, level), self.model.device)
            for noise, level in zip(noises, levels, strict=True)
        ]

    def _eps(self, noisy: list[list[Tensor]], texts: list[str]) -> list[Tensor]:
        """(L, M, C, h, w) each: the noise predicted for each of R images with its text.

        Images of one size are computed together.
        """
        condition = self.model.text.encode(texts)
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, levels in enumerate(noisy):
            height, width = levels[0].shape[-2:]
            groups[height, width].append(row)
        eps: dict[int, Tensor] = {}
        for grid, rows in sorted(groups.items()):
            text = condition[torch.tensor(rows)]
            schedule, by_level = self.model.schedule.for_grid(*grid), []
            for number, share in enumerate(self.method.mask.noise_level):
                latents = torch.stack([noisy[row][number] for row in rows])
                repeated = Repeated.of(text, latents.shape[1])
                level = schedule.level_at(share)
                predicted = self.model.denoiser(latents.flatten(0, 1), level, repeated)
                by_level.append(torch.unflatten(predicted, 0, latents.shape[:2]))
            eps |= zip(rows, torch.stack(by_level, dim=1), strict=True)
        return [eps[row] for row in range(len(noisy))]

    def _difference(self, eps_source: Tensor, eps_target: Tensor) -> Tensor:
        """(h, w): the mean of the difference maps of all levels; arguments are (L, M, C, h, w)."""
        levels = zip(eps_source, eps_target, strict=True)
        return torch.stack([relative_difference(source, target) for source, target in levels]).mean(
            0
        )

    def _cut(self, edit: Edit, difference: Tensor) -> None:
        """Sets an edit's mask from its difference map, (h, w)."""
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

    def _note_truncation(self, edit: Edit, caption: str, edit_text: str) -> None:
        for name, text in (("caption", caption), ("edit text", edit_text)):
            if note := self.model.text.truncation_note(name, text):
                edit.notes.append(note)


def _pixels(sample: Sample) -> np.ndarray:
    assert sample.image is not None, "prepare sets it for every pending sample"
    return sample.image


def _why_empty(supplied_mask: np.ndarray | None) -> str:
    """Why a supplied mask edits no cell, e.g. because it has values 0 and 1 instead of 255."""
    brightest = 0 if supplied_mask is None else int(supplied_mask.max())
    if not brightest:
        return "the supplied mask is empty"
    return (
        f"the supplied mask covers no cell of the latent grid by a quarter; its brightest pixel is "
        f"{brightest} of 255"
    )


def _unchanged(edit: Edit, message: str) -> None:
    edit.status, edit.stage, edit.message = Status.UNCHANGED, "mask", message
