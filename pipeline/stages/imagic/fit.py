"""Imagic's stage ``encode``: fits an embedding and weights to each image (the paper's steps 1, 2).

With ``rank`` set (LoRA), many edits are fitted in one batch, each with its own factors, which are
passed on. Without it all weights are fitted, one edit after the other. Full weights never leave
the actor, so the candidates are generated here, before the network is restored.

# N edits, M draws per step, C channels, h w latent grid, L tokens, D their width
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.config.method import Method
from pipeline.config.sample_settings import seed_for
from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.imagic import minimize, prediction_loss
from pipeline.diffusion.latents import to_numpy
from pipeline.diffusion.noise import draw_fit
from pipeline.diffusion.row_levels import RowLevels
from pipeline.diffusion.transfer import upload, upload_stacked
from pipeline.models.fine_tuning import fine_tuning
from pipeline.models.loading import LatentDiffusion
from pipeline.models.lora import LoraSites
from pipeline.records.part import Edit, Part, Sample, Status
from pipeline.records.seeds import noise_seed
from pipeline.stages.imagic.generate import ImagicGenerator, Pair

SAME = "the model does not distinguish the two texts: nothing to edit"


class ImagicFitStage:
    """Sets each edit's fitted embedding and LoRA factors, or its candidates (full fine-tuning)."""

    def __init__(self, model: LatentDiffusion, method: Method, run_seed: int) -> None:
        """
        Args:
            model: its network is changed during a call and restored afterwards.
            method: with a section ``imagic``.
            run_seed: the seed of all draws.
        """
        assert method.imagic is not None, "method.name: imagic always has this section"
        self.model, self.method, self.run_seed = model, method, run_seed
        self.settings = method.imagic
        self.generate = ImagicGenerator(model, method, run_seed)
        network = model.unbatched.network
        self.sites = LoraSites(network, self.settings.rank) if self.settings.rank else None
        if self.settings.checkpointing:
            network.enable_gradient_checkpointing()  # type: ignore[operator] # diffusers' models

    # Leaves the caller's inference mode: its tensors cannot have gradients.
    @torch.inference_mode(False)
    def __call__(self, part: Part) -> Part:
        part.device = self.model.device_kind
        pairs = [
            (sample, edit)
            for sample in part.samples
            for edit in sample.pending
            if self._texts_differ(sample, edit)
        ]
        if self.sites is None:
            for pair in pairs:
                self._fit_fully(part.shard, pair)
        else:
            groups: dict[tuple[int, int], list[Pair]] = defaultdict(list)
            for pair in pairs:
                groups[pair[0].grid].append(pair)
            fit = partial(self._fit_factors, self.sites, part.shard)
            for _, group in sorted(groups.items(), key=lambda item: item[0]):
                self._fit_group(fit, group)
        return part

    def _fit_group(self, fit: Callable[[list[Pair]], None], pairs: list[Pair]) -> None:
        """Fits edits of one grid in micro-batches."""
        self.model.micro_batch.map(
            lambda rows: fit(pairs[rows]), len(pairs), weight=self.settings.draws
        )

    def _texts_differ(self, sample: Sample, edit: Edit) -> bool:
        """Whether the two texts have different tokens; if not, ends the edit as unchanged."""
        text = edit.edit_text or ""
        note = self.model.text.truncation_note("edit text", text)
        if note and note not in edit.notes:
            edit.notes.append(note)
        token_ids = self.model.text.token_ids
        if token_ids(text) != token_ids(sample.caption or ""):
            return True
        edit.status, edit.stage, edit.message = Status.UNCHANGED, "encode", SAME
        edit.mask = np.zeros_like(edit.mask)
        return False

    def _fit_factors(self, sites: LoraSites, shard: str, pairs: list[Pair]) -> None:
        """Fits LoRA factors for each edit, all edits at once."""
        text = self._texts(pairs)
        tokens = self._fit_embedding(shard, pairs, text)
        seeds = [self._seed(shard, pair, "lora factors") for pair in pairs]
        factors = upload(sites.draw(seeds), self.model.device).requires_grad_()
        minimize(
            [factors],
            self._loss(shard, pairs, "model", text.with_tokens(tokens)),
            steps=self.settings.model_steps,
            learning_rate=self.settings.model_learning_rate,
            context=lambda: sites.attached(factors.repeat_interleave(self.settings.draws, dim=0)),
        )
        kept = factors.detach().to(self.model.dtype)
        for (_, edit), row, values in zip(pairs, tokens, kept, strict=True):
            edit.embedding, edit.adapter = to_numpy(row), to_numpy(values)
            self._check(edit, row, values)

    def _fit_fully(self, shard: str, pair: Pair) -> None:
        """Fits all weights for one edit, and generates its candidates with them."""
        _, edit = pair
        text = self._texts([pair])
        tokens = self._fit_embedding(shard, [pair], text)
        with fine_tuning(self.model.unbatched.network) as parameters:
            minimize(
                parameters,
                self._loss(shard, [pair], "model", text.with_tokens(tokens)),
                steps=self.settings.model_steps,
                learning_rate=self.settings.model_learning_rate,
            )
            with torch.no_grad():
                (candidates,) = self.generate(self.model.denoiser, shard, [pair], tokens)
        edit.candidates = to_numpy(candidates)
        self._check(edit, candidates)

    def _fit_embedding(self, shard: str, pairs: list[Pair], text: Condition) -> Tensor:
        """(N, L, D): each edit text's embedding, optimized to fit the edit's image."""
        tokens = text.tokens.clone().requires_grad_()
        minimize(
            [tokens],
            self._loss(shard, pairs, "embedding", text.with_tokens(tokens)),
            steps=self.settings.embedding_steps,
            learning_rate=self.settings.embedding_learning_rate,
        )
        num_steps = self.settings.embedding_steps + self.settings.model_steps
        for _, edit in pairs:
            edit.num_evals_encode = num_steps * self.settings.draws
        return tokens.detach()

    def _loss(
        self, shard: str, pairs: list[Pair], phase: str, condition: Condition
    ) -> Callable[[], Tensor]:
        """A function that returns each edit's loss, (N,), the mean over the next step's draws.

        Each edit has its own draws.
        """
        device, settings = self.model.device, self.settings
        clean = upload_stacked([sample.latent for sample, _ in pairs], device)
        clean_rows = clean.repeat_interleave(settings.draws, dim=0)
        rows = torch.arange(len(pairs)).repeat_interleave(settings.draws)
        schedule = self.model.schedule.for_grid(*pairs[0][0].grid)
        shape = (settings.draws, *clean.shape[1:])
        draws = [
            draw_fit(self._seed(shard, pair, phase), shape, settings.noise_range) for pair in pairs
        ]

        def loss() -> Tensor:
            drawn = [next(draw) for draw in draws]
            shares = [share for row, _ in drawn for share in row]
            losses = prediction_loss(
                self.model.unbatched,
                clean_rows,
                upload(torch.cat([noise for _, noise in drawn]), device),
                RowLevels.of([schedule.level_at(share) for share in shares], device),
                condition[rows],
                self.model.info.prediction_type,
            )
            return torch.unflatten(losses, 0, (len(pairs), settings.draws)).mean(dim=1)

        return loss

    def _texts(self, pairs: list[Pair]) -> Condition:
        with torch.no_grad():
            return self.model.text.encode([edit.edit_text or "" for _, edit in pairs])

    def _seed(self, shard: str, pair: Pair, purpose: str) -> int:
        sample, edit = pair
        return noise_seed(
            seed_for(self.run_seed, sample), shard, sample.key, f"imagic {purpose}", edit.index
        )

    def _check(self, edit: Edit, *fitted: Tensor) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in fitted):
            edit.fail("encode", "NonFinite", "the fit is not finite; lower its learning rates")
