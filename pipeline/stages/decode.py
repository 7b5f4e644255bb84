"""Masked decoding: DiffEdit's step 3, batched over the edits of a part.

SDEdit is the same over a trajectory of noised latents, once or K times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.config.method import Method
from pipeline.config.sample_settings import method_for
from pipeline.diffusion.ddim import ancestral_ddim
from pipeline.diffusion.denoiser import Condition, Denoise
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.latents import blend
from pipeline.diffusion.noise import add_noise
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.solver import Solver
from pipeline.diffusion.solvers import SOLVERS
from pipeline.diffusion.transfer import upload, upload_stacked
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Edit, Part, Sample
from pipeline.stages.encode import noise_for
from pipeline.stages.region import Region, decoded_shape, region_for

Pair = tuple[Sample, Edit]
Grid = tuple[int, int]  # (h, w) in cells
AtLevel = Callable[[Level], Tensor]


class DecodeStage:
    """Sets each edit's image, and drops latents and trajectories, which no later step needs."""

    def __init__(self, model: LatentDiffusion, method: Method, run_seed: int) -> None:
        self.model, self.method, self.run_seed = model, method, run_seed

    @torch.inference_mode()
    def __call__(self, part: Part) -> Part:
        part.device = self.model.device_kind
        pairs = [(sample, edit) for sample in part.samples for edit in sample.pending]
        if pairs:
            self._decode_groups(part.shard, pairs)
        for sample in part.samples:
            sample.latent = sample.trajectory = None
        return part

    def _decode_groups(self, shard: str, pairs: list[Pair]) -> None:
        """Decodes edits in groups of equal number of steps, guidance, region shape and grid."""
        groups: dict[tuple[int, bool, Grid, Grid], list[int]] = defaultdict(list)
        for index, (sample, edit) in enumerate(pairs):
            is_guided = method_for(self.method, sample).guidance_scale > 1.0
            assert sample.trajectory is not None, "the encode stage sets it"
            num_steps = len(sample.trajectory) - 1
            shape = decoded_shape(_mask_of(edit), self.method.decode)
            groups[num_steps, is_guided, shape, sample.grid].append(index)
        # texts are encoded before grouping, so that each distinct text is encoded once
        texts = [*(edit.edit_text or "" for _, edit in pairs), self.method.negative_text]
        conditions = self.model.text.encode(texts)
        for (num_steps, *_), indices in sorted(groups.items()):
            rows = torch.tensor(indices)
            text, negative = conditions[rows], conditions[torch.full_like(rows, len(pairs))]
            self._decode(shard, num_steps, [pairs[index] for index in indices], text, negative)

    def _decode(
        self, shard: str, num_steps: int, pairs: list[Pair], text: Condition, negative: Condition
    ) -> None:
        """Decodes one group of edits: equal number of steps, equal shapes, all or none guided."""
        scales = [method_for(self.method, sample).guidance_scale for sample, _ in pairs]
        scale = upload(torch.tensor(scales), self.model.device)
        schedule = self.model.schedule.for_grid(*pairs[0][0].grid)
        levels = schedule.levels(self.method.steps, num_steps / self.method.steps)
        denoiser = self.model.denoiser_from(levels[-1], self.method.reuse)
        denoise = guided(denoiser, text, negative, scale, self.method.is_guided_at)
        latents = self._integrate(denoise, levels[::-1], shard, pairs)
        finite_rows = latents.isfinite().flatten(1).all(1).tolist()  # the host waits once
        for (_, edit), is_finite in zip(pairs, finite_rows, strict=True):
            self._note_truncation(edit)
            edit.num_evals_decode = denoise.num_evals
            if not is_finite:
                edit.fail("decode", "NonFinite", "the decoded latent is not finite")
        finite = [index for index, (_, edit) in enumerate(pairs) if edit.pending]
        if finite:
            images = self.model.image_coder.decode_each(latents[finite])
            for index, image in zip(finite, images, strict=True):
                edit = pairs[index][1]
                edit.image = image
                if image is None:
                    edit.fail("decode", "NonFinite", "the VAE gives an image that is not finite")

    def _integrate(
        self, denoise: Denoise, levels: list[Level], shard: str, pairs: list[Pair]
    ) -> Tensor:
        """Integrates from the trajectories' ends to the clean level, ``method.repeats`` times.

        Each round after the first adds fresh noise to the result, one noise per image, and keeps
        the background from the input with that same noise.

        Source: SDEdit, arXiv:2108.01073, its K repeats and its masked form.
        """
        device = self.model.device
        region = region_for([_mask_of(edit) for _, edit in pairs], self.method.decode)
        whole = upload_stacked([sample.latent for sample, _ in pairs], device)
        edit_mask = upload_stacked([edit.mask for _, edit in pairs], device)[:, None]
        clean, edit_mask = region.of(whole), region.of(edit_mask)
        trajectory = region.of(upload_stacked([sample.trajectory for sample, _ in pairs], device))

        def encoded(level: Level) -> Tensor:
            return trajectory[:, level.index].float()

        def masked(background: AtLevel, latent: Tensor, reached: Level) -> Tensor:
            # the background of the same level; at level 0 the clean latent, in full precision
            return blend(latent, background(reached) if reached.index else clean, edit_mask)

        latents = clean
        start: AtLevel = encoded
        background: AtLevel = encoded
        for number in range(1, self.method.repeats + 1):
            if number > 1:
                noise = region.of(self._noise(shard, pairs, f"encode {number}"))
                start = partial(add_noise, latents, noise)
                background = partial(add_noise, clean, noise)
            latents = self._solver(shard, pairs, number, region)(
                denoise,
                start(levels[0]),
                levels,
                partial(masked, background),
            )
        return region.into(whole, latents)

    def _solver(self, shard: str, pairs: list[Pair], number: int, region: Region) -> Solver:
        """The integrator of a round; ancestral DDIM draws noise for each edit and step."""
        if not self.method.ddim_eta:
            return SOLVERS[self.method.solver]

        def draw(level: Level) -> Tensor:
            purpose = f"decode {number} {level.index}"
            return region.of(self._noise(shard, pairs, purpose, each_edit=True))

        return partial(ancestral_ddim, ddim_eta=self.method.ddim_eta, draw=draw)

    def _noise(
        self, shard: str, pairs: list[Pair], purpose: str, *, each_edit: bool = False
    ) -> Tensor:
        """(N, C, h, w): one noise per image, or one per edit."""
        noises = [
            noise_for(self.run_seed, shard, sample, purpose, edit.index if each_edit else None)
            for sample, edit in pairs
        ]
        return upload(torch.stack(noises), self.model.device)

    def _note_truncation(self, edit: Edit) -> None:
        """Notes a truncated edit text, unless the mask stage has done so while inferring a mask."""
        note = self.model.text.truncation_note("edit text", edit.edit_text or "")
        if note and note not in edit.notes:
            edit.notes.append(note)


def _mask_of(edit: Edit) -> np.ndarray:
    assert edit.mask is not None, "the mask stage sets it for every pending edit"
    return edit.mask
