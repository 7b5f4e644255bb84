"""Which of several images made of one edit is kept.

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
    """Compares the candidates of an edit; another one (CLIP, say) is another class of this form."""

    name: str  # for the row's note
    num_evals: int  # network evaluations a candidate

    def __call__(self, shard: str, pairs: Sequence[Pair], candidates: Tensor) -> Tensor:
        """Scores every candidate.

        Args:
            shard: of all pairs.
            pairs: N edits.
            candidates: (N, S, C, h, w) float32, clean latents.

        Returns:
            (N, S) float32, more is better; compared within an edit only.
        """
        ...


class TextAgreement:
    """How much better the network as it was before any fit explains an image by the edit text.

    The loss under the caption minus the loss under the edit text, at the same noises and levels:
    above 0 the image is more of the edit text. No further model is needed. It judges the text
    alone, not what is left of the image: the fit, interp_eta and the mask see to that.

    Source: the comparison of losses is the diffusion classifier's, Li et al., arXiv:2303.16203.
    """

    name = "text agreement"
    # Cleaner levels tell texture, noisier ones next to nothing of the image.
    NOISE_RANGE = (0.2, 0.9)

    def __init__(self, model: LatentDiffusion, run_seed: int, draws: int) -> None:
        self.model, self.run_seed, self.draws = model, run_seed, draws
        self.num_evals = 2 * draws

    @torch.inference_mode()
    def __call__(self, shard: str, pairs: Sequence[Pair], candidates: Tensor) -> Tensor:
        wanted = self.model.text.encode([edit.edit_text or "" for _, edit in pairs])
        caption = self.model.text.encode([image.caption or "" for image, _ in pairs])
        return torch.stack(
            [
                self._loss(shard, pair, rows, caption[place : place + 1])
                - self._loss(shard, pair, rows, wanted[place : place + 1])
                for place, (pair, rows) in enumerate(zip(pairs, candidates, strict=True))
            ]
        )

    def _loss(self, shard: str, pair: Pair, candidates: Tensor, text: Condition) -> Tensor:
        """(S,) of one edit's candidates, all of them at the same draws."""
        image, edit = pair
        device, seed = self.model.device, seed_for(self.run_seed, image)
        seed = noise_seed(seed, shard, image.key, "imagic score", edit.index)
        shares, noise = next(draw_fit(seed, (self.draws, *candidates.shape[1:]), self.NOISE_RANGE))
        levels = [self.model.schedule.level_at(share) for share in shares] * len(candidates)
        clean = candidates.to(device).repeat_interleave(self.draws, dim=0)
        noise = noise.to(device).repeat(len(candidates), 1, 1, 1)

        def score_rows(rows: slice) -> Tensor:
            return prediction_loss(
                self.model.unbatched,
                clean[rows],
                noise[rows],
                RowLevels.of(levels[rows], device),
                text[torch.zeros(len(levels[rows]), dtype=torch.long, device=device)],
                self.model.info.prediction_type,
            )

        losses = self.model.micro_batch.map(score_rows, len(clean))
        return torch.cat(losses).view(len(candidates), self.draws).mean(dim=1)
