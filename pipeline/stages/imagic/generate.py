"""Generates images with a fitted network from the interpolated embedding (the paper's step 3).

# N edits, S seeds, C channels, h w latent grid, L tokens, D their width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.config.method import Method
from pipeline.config.sample_settings import method_for
from pipeline.diffusion.denoiser import Condition, Denoiser
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.imagic import interpolated
from pipeline.diffusion.latents import blend
from pipeline.diffusion.noise import add_noise
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.solvers import SOLVERS
from pipeline.diffusion.transfer import upload, upload_stacked
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Edit, Sample
from pipeline.stages.encode import noise_for

Pair = tuple[Sample, Edit]


class ImagicGenerator:
    """Generates the candidates of fitted edits, with the network that the caller passes."""

    def __init__(self, model: LatentDiffusion, method: Method, run_seed: int) -> None:
        assert method.imagic is not None, "method.name: imagic always has this section"
        self.model, self.method, self.run_seed = model, method, run_seed
        self.settings = method.imagic

    def __call__(
        self, denoiser: Denoiser, shard: str, pairs: Sequence[Pair], optimized: Tensor
    ) -> Tensor:
        """Generates over the whole schedule, from one noise for each edit and seed.

        Args:
            denoiser: the fitted network. It is called with N * S rows, or twice as many with
                guidance; row i belongs to edit i modulo N.
            shard: of all pairs.
            pairs: N edits of one grid, all with guidance or all without.
            optimized: (N, L, D), their fitted embeddings.

        Returns:
            (N, S, C, h, w) float32. Where an edit's mask is 0, this is the clean latent.
        """
        num_seeds, device = self.settings.seeds, self.model.device
        target = self.model.text.encode([edit.edit_text or "" for _, edit in pairs])
        text = interpolated(target, optimized.to(device), self.settings.interp_eta)
        negative = self.model.text.encode([self.method.negative_text] * len(pairs))
        scales = [method_for(self.method, sample).guidance_scale for sample, _ in pairs]
        clean = upload_stacked([sample.latent for sample, _ in pairs] * num_seeds, device)
        masks = upload_stacked([edit.mask for _, edit in pairs] * num_seeds, device)
        noise = torch.stack([self._noise(shard, *pair) for pair in pairs], dim=1).flatten(0, 1)
        edit_mask, noise = masks[:, None], upload(noise, device)
        denoise = guided(
            denoiser,
            Condition.cat([text] * num_seeds),
            Condition.cat([negative] * num_seeds),
            upload(torch.tensor(scales * num_seeds), device),
            self.method.is_guided_at,
        )
        latents = SOLVERS[self.method.solver](
            denoise,
            noise,
            self.model.schedule.for_grid(*clean.shape[-2:]).levels(self.method.steps)[::-1],
            _background_keeper(clean, edit_mask, noise),
        )
        for _, edit in pairs:
            edit.num_evals_decode = denoise.num_evals * num_seeds
        return torch.unflatten(latents, 0, (num_seeds, len(pairs))).transpose(0, 1)

    def _noise(self, shard: str, sample: Sample, edit: Edit) -> Tensor:
        """(S, C, h, w): start noises; the n-th does not depend on the number of seeds."""
        return torch.stack(
            [
                noise_for(self.run_seed, shard, sample, f"imagic start {n}", edit.index)
                for n in range(self.settings.seeds)
            ]
        )


def _background_keeper(
    clean: Tensor, edit_mask: Tensor, noise: Tensor
) -> Callable[[Tensor, Level], Tensor]:
    """A step callback that restores the image outside the mask, noised to the level reached."""

    def keep_background(latent: Tensor, reached: Level) -> Tensor:
        background = add_noise(clean, noise, reached) if reached.index else clean
        return blend(latent, background, edit_mask)

    return keep_background
