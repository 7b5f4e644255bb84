"""Imagic's stage ``decode``: generates candidates, keeps the best and decodes it to an image."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from pipeline.config.method import Method
from pipeline.config.sample_settings import method_for
from pipeline.diffusion.transfer import upload_stacked
from pipeline.models.loading import LatentDiffusion
from pipeline.models.lora import LoraSites, adapted
from pipeline.records.part import Part
from pipeline.stages.imagic.generate import ImagicGenerator, Pair
from pipeline.stages.imagic.score import Scorer, TextAgreement


class ImagicDecodeStage:
    """Sets each edit's image, and drops the fit's results, which no later step needs."""

    def __init__(
        self,
        model: LatentDiffusion,
        method: Method,
        run_seed: int,
        scorer: Scorer | None = None,
    ) -> None:
        """
        Args:
            model: the original model, not fitted.
            method: with a section ``imagic``.
            run_seed: the seed of all draws.
            scorer: of candidates; None means ``TextAgreement``.
        """
        assert method.imagic is not None, "method.name: imagic always has this section"
        self.model, self.method = model, method
        self.settings = method.imagic
        self.generate = ImagicGenerator(model, method, run_seed)
        rank = self.settings.rank
        self.sites = LoraSites(model.unbatched.network, rank) if rank else None
        self.scorer = scorer or TextAgreement(model, run_seed, self.settings.score_draws)

    @torch.inference_mode()
    def __call__(self, part: Part) -> Part:
        part.device = self.model.device_kind
        groups: dict[tuple[bool, tuple[int, int]], list[Pair]] = defaultdict(list)
        for sample in part.samples:
            for edit in sample.pending:
                is_guided = method_for(self.method, sample).guidance_scale > 1.0
                groups[is_guided, sample.grid].append((sample, edit))
        for _, pairs in sorted(groups.items(), key=lambda item: item[0]):
            self._decode(part.shard, pairs)
        for sample in part.samples:
            sample.latent = None
        for edit in part.edits:
            edit.embedding = edit.adapter = edit.candidates = None
        return part

    def _decode(self, shard: str, pairs: list[Pair]) -> None:
        candidates = self._candidates(shard, pairs)
        latents = self._best(shard, pairs, candidates)
        finite_rows = latents.isfinite().flatten(1).all(1).tolist()  # the host waits once
        for (_, edit), is_finite in zip(pairs, finite_rows, strict=True):
            if not is_finite:
                edit.fail("decode", "NonFinite", "the generated latent is not finite")
        finite = [index for index, (_, edit) in enumerate(pairs) if edit.pending]
        if finite:
            images = self.model.image_coder.decode_each(latents[finite])
            for index, image in zip(finite, images, strict=True):
                edit = pairs[index][1]
                edit.image = image
                if image is None:
                    edit.fail("decode", "NonFinite", "the VAE gives an image that is not finite")

    def _candidates(self, shard: str, pairs: list[Pair]) -> Tensor:
        """(N, S, C, h, w): generated here with the LoRA factors, or taken from a full fit."""
        if self.sites is None:
            return upload_stacked([edit.candidates for _, edit in pairs], self.model.device)
        factors = upload_stacked([edit.adapter for _, edit in pairs], self.model.device)
        optimized = upload_stacked([edit.embedding for _, edit in pairs], self.model.device)
        denoiser = adapted(self.model.unbatched, self.sites, factors, self.model.micro_batch)
        return self.generate(denoiser, shard, pairs, optimized)

    def _best(self, shard: str, pairs: list[Pair], candidates: Tensor) -> Tensor:
        """(N, C, h, w): each edit's candidate with the highest score, the first one on a tie."""
        if self.settings.seeds == 1:
            return candidates[:, 0]
        scores = self.scorer(shard, pairs, candidates).cpu()
        best = scores.argmax(dim=1)
        for (_, edit), index, row in zip(pairs, best.tolist(), scores, strict=True):
            edit.num_evals_decode += self.scorer.num_evals * self.settings.seeds
            score = f"{self.scorer.name} {row[index]:.4f}"
            edit.notes.append(f"image {index + 1} of {len(row)} kept, {score}")
        return candidates[torch.arange(len(pairs)), best.to(candidates.device)]
