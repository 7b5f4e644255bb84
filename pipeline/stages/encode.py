"""Encoding: DiffEdit's step 2, once per image; or plain noise, for SDEdit and the ablation."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from pipeline.config.method import Method, Reuse
from pipeline.config.sample_settings import method_for, seed_for
from pipeline.diffusion.denoiser import Condition, Counted
from pipeline.diffusion.guidance import conditioned
from pipeline.diffusion.latents import stacked, to_numpy
from pipeline.diffusion.noise import add_noise, draw_noise
from pipeline.diffusion.schedule import Level, num_levels
from pipeline.diffusion.solvers import SOLVERS, encode_trajectory
from pipeline.diffusion.transfer import Download, upload_stacked
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Part, Sample
from pipeline.records.seeds import noise_seed


class EncodeStage:
    """Sets each sample's trajectory: the latent at every level that decoding visits."""

    def __init__(self, model: LatentDiffusion, method: Method, run_seed: int) -> None:
        self.model, self.method, self.run_seed = model, method, run_seed

    @torch.inference_mode()
    def __call__(self, part: Part) -> Part:
        part.device = self.model.device_kind
        groups: dict[tuple[int, tuple[int, int]], list[Sample]] = defaultdict(list)
        for sample in part.samples:
            if sample.pending:
                method = method_for(self.method, sample)
                groups[num_levels(method.steps, method.ratio), sample.grid].append(sample)
        # inversion uses the empty text for all images, so it is encoded once per part
        inverts = self.method.encode == "ddim" and bool(groups)
        empty = self.model.text.encode([""]) if inverts else None
        for (num_steps, grid), samples in sorted(groups.items()):
            schedule = self.model.schedule.for_grid(*grid)
            levels = schedule.levels(self.method.steps, num_steps / self.method.steps)
            if empty is None:
                self._store(samples, self._noised(part.shard, samples, levels))
            else:
                self._store(samples, self._inverted(samples, levels, empty))
        return part

    def _inverted(self, samples: list[Sample], levels: list[Level], empty: Condition) -> Tensor:
        """(N, K + 1, C, h, w): the latents encoded with the empty text, without guidance."""
        device = self.model.device
        rows = torch.zeros(len(samples), dtype=torch.long)
        reuse = self.method.reuse if self.method.reuse.encode else Reuse()
        denoiser = self.model.denoiser_from(levels[0], reuse)
        denoise = Counted(conditioned(denoiser, empty[rows]))
        solver = SOLVERS[self.method.solver]
        latents = upload_stacked([sample.latent for sample in samples], device)
        trajectories = encode_trajectory(denoise, latents, levels, solver=solver)
        for sample in samples:
            sample.pending[0].num_evals_encode = denoise.num_calls
        return trajectories

    def _noised(self, shard: str, samples: list[Sample], levels: list[Level]) -> Tensor:
        """(N, K + 1, C, h, w): the latents noised to each level, with one noise per image."""
        noises = [noise_for(self.run_seed, shard, sample, "encode") for sample in samples]
        noise, latents = torch.stack(noises), stacked([sample.latent for sample in samples])
        return torch.stack([add_noise(latents, noise, level) for level in levels], dim=1)

    def _store(self, samples: list[Sample], trajectories: Tensor) -> None:
        """Sets the samples' trajectories, in the model's dtype."""
        trajectories = trajectories.to(self.model.dtype)  # float16 may overflow
        finite = Download(trajectories.isfinite().flatten(1).all(1))
        whole = Download(trajectories)
        # downloaded as one array, and so packed as one (pipeline/records/packing.py)
        arrays = to_numpy(whole.wait())
        for sample, array, good in zip(samples, arrays, finite.wait().tolist(), strict=True):
            if good:
                sample.trajectory = array
            else:
                sample.fail("encode", "NonFinite", "the encoded latents are not finite")


def noise_for(
    run_seed: int, shard: str, sample: Sample, purpose: str, edit_index: int | None = None
) -> Tensor:
    """(C, h, w): a sample's noise for a purpose. Without an index, all its edits share it."""
    seed = noise_seed(seed_for(run_seed, sample), shard, sample.key, purpose, edit_index)
    assert sample.latent is not None, "the mask stage sets it for every pending sample"
    return draw_noise(seed, sample.latent.shape)
