"""Texts to conditions: tokenized as the model's own pipeline does, each distinct text once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.diffusion.denoiser import Condition
from pipeline.models.micro_batch import MicroBatch

TokenIds = tuple[tuple[int, ...], ...]  # one tuple for each tokenizer
Outputs = Sequence[Any]  # what each encoder answers, with all of its hidden states
Join = Callable[[Outputs], Condition]


@dataclass(frozen=True)
class Tower:
    """A text encoder with the tokenizer that feeds it; a model has one, two or three.

    Attributes:
        name: of the encoder's folder.
        tokenizer: texts to ids.
        encoder: ids to hidden states.
        max_tokens: texts are padded to this, as in the model's training, and cut there.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    encoder: PreTrainedModel
    max_tokens: int

    def ids(self, text: str) -> tuple[int, ...]:
        """What the encoder reads of a text."""
        encoded = self.tokenizer(
            text, padding="max_length", truncation=True, max_length=self.max_tokens
        )
        return tuple(encoded["input_ids"])

    def num_tokens(self, text: str) -> int:
        """How long the text is, marks at its ends included, before it is cut."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])


class TextEncoder:
    """A model's text encoders, and how their answers make one condition."""

    def __init__(
        self,
        towers: Sequence[Tower],
        join: Join,
        micro_batch: MicroBatch,
        *,
        empty_is_zero: bool = False,
    ) -> None:
        """
        Args:
            towers: in the order of the model's folders.
            join: their answers to one condition, float32.
            micro_batch: how many texts a call.
            empty_is_zero: the empty text is the zero condition, whatever the encoders say of it:
                what a model was trained with where it was told nothing.
        """
        self.towers = tuple(towers)
        self.join = join
        self.micro_batch = micro_batch
        self.empty_is_zero = empty_is_zero

    def with_micro_batch(self, micro_batch: MicroBatch) -> TextEncoder:
        """The same encoders, called with another number of texts at a time."""
        return TextEncoder(self.towers, self.join, micro_batch, empty_is_zero=self.empty_is_zero)

    def encode(self, texts: Sequence[str]) -> Condition:
        """The condition of each text, computed once for each that the tokenizers distinguish.

        Returns:
            N rows, float32; equal where ``token_ids`` are.
        """
        read = [self.token_ids(text) for text in texts]
        distinct = list(dict.fromkeys(read))
        condition = Condition.cat(
            self.micro_batch.over(len(distinct), lambda rows: self._encoded(distinct[rows]))
        )
        place = {ids: number for number, ids in enumerate(distinct)}
        rows = torch.tensor([place[ids] for ids in read], device=condition.tokens.device)
        return condition[rows]

    def _encoded(self, read: list[TokenIds]) -> Condition:
        """One call of each encoder."""
        condition = self.join(
            [
                tower.encoder(
                    torch.tensor([ids[number] for ids in read], device=tower.encoder.device),
                    output_hidden_states=True,
                )
                for number, tower in enumerate(self.towers)
            ]
        )
        if not self.empty_is_zero:
            return condition
        empty = self.token_ids("")
        told = torch.tensor([ids != empty for ids in read], device=condition.tokens.device)
        return _zeroed(condition, told)

    def token_ids(self, text: str) -> TokenIds:
        """What the model reads of a text: "A dog" and "a dog" may well be the same to it."""
        return tuple(tower.ids(_encodable(text)) for tower in self.towers)

    def truncation_note(self, name: str, text: str) -> str | None:
        """A note for the row where an encoder reads the text's beginning only."""
        lengths = [(tower, tower.num_tokens(_encodable(text))) for tower in self.towers]
        cut: dict[str, list[str]] = {}  # what happened: the encoders that it happened to
        for tower, num_tokens in lengths:
            if num_tokens > tower.max_tokens:
                what = f"{name} cut at {tower.max_tokens} of {num_tokens} tokens"
                cut.setdefault(what, []).append(tower.name)
        if not cut:
            return None
        if len(cut) == 1 and sum(map(len, cut.values())) == len(self.towers):
            return next(iter(cut))
        return "; ".join(f"{what} by {', '.join(names)}" for what, names in cut.items())


def _zeroed(condition: Condition, told: Tensor) -> Condition:
    """The condition with zeros in the rows where ``told``, (N,) bool, is false."""
    pooled = condition.pooled
    return Condition(
        condition.tokens * told.view(-1, 1, 1),
        None if pooled is None else pooled * told.view(-1, 1),
    )


def _encodable(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
