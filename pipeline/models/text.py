"""Texts to conditions: tokenized as the model's own pipeline does, each distinct text once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline.diffusion.denoiser import Condition
from pipeline.models.micro_batch import MicroBatch

TokenIds = tuple[int, ...]


class TextEncoder:
    """Stable Diffusion's CLIP text encoder with its tokenizer."""

    def __init__(
        self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, micro_batch: MicroBatch
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.micro_batch = micro_batch
        self.max_tokens = min(
            int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings)
        )

    def encode(self, texts: Sequence[str]) -> Condition:
        """The hidden states of each text, computed once for each that the tokenizer distinguishes.

        Texts are padded to the model's length, as in its training, and cut there.

        Returns:
            N rows, (N, L, D) float32; equal where ``token_ids`` are.
        """
        read = [self.token_ids(text) for text in texts]
        place = {ids: number for number, ids in enumerate(dict.fromkeys(read))}
        distinct = torch.tensor(list(place), device=self.encoder.device)
        states = torch.cat(
            self.micro_batch.over(
                len(distinct), lambda rows: self.encoder(distinct[rows])[0].float()
            )
        )
        return Condition(states[[place[ids] for ids in read]])

    def token_ids(self, text: str) -> TokenIds:
        """What the model reads of a text: "A dog" and "a dog" may well be the same to it."""
        encoded = self.tokenizer(
            _encodable(text), padding="max_length", truncation=True, max_length=self.max_tokens
        )
        return tuple(encoded["input_ids"])

    def truncation_note(self, name: str, text: str) -> str | None:
        """A note for the row where the model reads the text's beginning only."""
        num_tokens = len(self.tokenizer(_encodable(text), verbose=False)["input_ids"])
        if num_tokens <= self.max_tokens:
            return None
        return f"{name} cut at {self.max_tokens} of {num_tokens} tokens"


def _encodable(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
