"""Texts to conditions: tokenized as the model's own pipeline does, each distinct text once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline.diffusion.denoiser import Condition


class TextEncoder:
    """Stable Diffusion's CLIP text encoder with its tokenizer."""

    def __init__(self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, micro_batch: int) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.micro_batch = micro_batch
        self.max_tokens = min(
            int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings)
        )

    def encode(self, texts: Sequence[str]) -> Condition:
        """The hidden states of each text, computed once for each distinct one.

        Texts are padded to the model's length, as in its training, and cut there.

        Returns:
            N rows, (N, L, D) float32.
        """
        distinct = sorted(set(texts))
        ids = torch.tensor(self._ids(distinct, truncation=True), device=self.encoder.device)
        states = [self.encoder(chunk)[0].float() for chunk in ids.split(self.micro_batch)]
        place = {text: number for number, text in enumerate(distinct)}
        return Condition(torch.cat(states)[[place[text] for text in texts]])

    def is_truncated(self, text: str) -> bool:
        """Whether the model reads the text's beginning only."""
        return len(self._ids([text], truncation=False)[0]) > self.max_tokens

    def _ids(self, texts: list[str], truncation: bool) -> list[list[int]]:
        encoded = self.tokenizer(
            texts,
            padding="max_length" if truncation else False,
            truncation=truncation,
            max_length=self.max_tokens if truncation else None,
            verbose=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids
