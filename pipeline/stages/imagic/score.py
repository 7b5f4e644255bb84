"""Scores the candidates of an edit, to choose the one to keep.

# N edits, S seeds, C channels, h w latent grid
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.config.sample_settings import seed_for
from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.imagic import prediction_loss
from pipeline.diffusion.noise import draw_fit
from pipeline.diffusion.row_levels import RowLevels
from pipeline.models.loading import LatentDiffusion
from pipeline.records.seeds import noise_seed
from pipeline.stages.imagic.generate import Pair


class Scorer(Protocol):
    """The interface for scoring the candidates of an edit; a CLIP scorer, say, would fit it too."""

    name: str  # used in the row's note
    num_evals: int  # network evaluations per candidate

    def __call__(self, shard: str, pairs: Sequence[Pair], candidates: Tensor) -> Tensor:
        """Scores every candidate.

        Args:
            shard: of all pairs.
            pairs: N edits of one grid.
            candidates: (N, S, C, h, w) float32, clean latents.

        Returns:
            (N, S) float32, higher is better; comparable only within one edit.
        """
        ...


class TextAgreement:
    """Denoising loss under the caption minus that under the edit text, with the original network.

    Both use the same noises and levels. The score is above 0 if the image has the lower loss under
    the edit text. It needs no further model. It measures agreement with the text only; the fit,
    interp_eta and the mask preserve the image.

    Source: the comparison of losses is the diffusion classifier's, Li et al., arXiv:2303.16203.
    """

    name = "text agreement"
    # Cleaner levels measure texture; noisier ones hardly depend on the image.
    NOISE_RANGE = (0.2, 0.9)

    def __init__(self, model: LatentDiffusion, run_seed: int, draws: int) -> None:
        self.model, self.run_seed, self.draws = model, run_seed, draws
        self.num_evals = 2 * draws

    @torch.inference_mode()
    def __call__(self, shard: str, pairs: Sequence[Pair], candidates: Tensor) -> Tensor:
        wanted = self.model.text.encode([edit.edit_text or "" for _, edit in pairs])
        caption = self.model.text.encode([sample.caption or "" for sample, _ in pairs])
        return torch.stack(
            [
                self._loss(shard, pair, rows, caption[index : index + 1])
                - self._loss(shard, pair, rows, wanted[index : index + 1])
                for index, (pair, rows) in enumerate(zip(pairs, candidates, strict=True))
            ]
        )

    def _loss(self, shard: str, pair: Pair, candidates: Tensor, text: Condition) -> Tensor:
        """(S,): the losses of one edit's candidates, all with the same draws."""
        sample, edit = pair
        device, seed = self.model.device, seed_for(self.run_seed, sample)
        seed = noise_seed(seed, shard, sample.key, "imagic score", edit.index)
        shares, noise = next(draw_fit(seed, (self.draws, *candidates.shape[1:]), self.NOISE_RANGE))
        schedule = self.model.schedule.for_grid(*candidates.shape[-2:])
        levels = [schedule.level_at(share) for share in shares] * len(candidates)
        clean = candidates.to(device).repeat_interleave(self.draws, dim=0)
        noise = noise.to(device).repeat(len(candidates), 1, 1, 1)

        def score_rows(rows: slice) -> Tensor:
            return prediction_loss(
                self.model.unbatched,
                clean[rows],
                noise[rows],
                RowLevels.of(levels[rows], device),
                text[torch.zeros(len(levels[rows]), dtype=torch.long)],
                self.model.info.prediction_type,
            )

        losses = self.model.micro_batch.map(score_rows, len(clean))
        return torch.cat(losses).view(len(candidates), self.draws).mean(dim=1)
