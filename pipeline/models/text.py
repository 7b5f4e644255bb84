"""Encodes texts to conditions, tokenized as in the model's own pipeline, each text only once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.transfer import upload
from pipeline.models.micro_batch import MicroBatch

TokenIds = tuple[tuple[int, ...], ...]  # one tuple for each tokenizer
Encode = Callable[[list[str]], Condition]  # of the family's own pipeline


@dataclass(frozen=True)
class Tower:
    """A text encoder and its tokenizer; a model has one, two or three.

    Attributes:
        name: the encoder's folder.
        tokenizer: turns texts into token ids.
        encoder: turns token ids into hidden states.
        max_tokens: texts are padded and truncated to this length, as in the model's training.
        template: what the family's pipeline gives the tokenizer of a text; None: the text itself.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    encoder: PreTrainedModel
    max_tokens: int
    template: Callable[[Any, str], str] | None = None

    def ids(self, text: str) -> tuple[int, ...]:
        """The token ids of a text, padded and truncated."""
        encoded = self.tokenizer(
            self._templated(text),
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
        )
        return tuple(encoded["input_ids"])

    def num_tokens(self, text: str) -> int:
        """The text's length in tokens before truncation, start and end tokens included."""
        return len(self.tokenizer(self._templated(text), verbose=False)["input_ids"])

    def _templated(self, text: str) -> str:
        return text if self.template is None else self.template(self.tokenizer, text)


class TextEncoder:
    """A model's text encoders, called through the family's own pipeline, and only for new texts."""

    def __init__(
        self,
        towers: Sequence[Tower],
        encode_texts: Encode,
        micro_batch: MicroBatch,
        *,
        empty_is_zero: bool = False,
    ) -> None:
        """
        Args:
            towers: in the order of the model's folders.
            encode_texts: makes one float32 condition of texts; a text's row depends on its token
                ids alone.
            micro_batch: how many texts per call.
            empty_is_zero: encode the empty text as zeros, whatever the encoders output, for models
                that were trained with zeros as the unconditional input.
        """
        self.towers = tuple(towers)
        self.encode_texts = encode_texts
        self.micro_batch = micro_batch
        self.empty_is_zero = empty_is_zero

    def with_micro_batch(self, micro_batch: MicroBatch) -> TextEncoder:
        """The same encoders with another micro-batch size."""
        return TextEncoder(
            self.towers, self.encode_texts, micro_batch, empty_is_zero=self.empty_is_zero
        )

    def encode(self, texts: Sequence[str]) -> Condition:
        """The condition of each text. Texts with the same token ids are encoded only once.

        Returns:
            N rows, float32; rows are equal if their ``token_ids`` are.
        """
        all_ids = [self.token_ids(text) for text in texts]
        distinct: dict[TokenIds, str] = {}  # with a text that has these tokens
        for ids, text in zip(all_ids, texts, strict=True):
            distinct.setdefault(ids, text)
        items = list(distinct.items())
        condition = Condition.cat(
            self.micro_batch.map(lambda rows: self._encoded(items[rows]), len(items))
        )
        row_of = {ids: row for row, ids in enumerate(distinct)}
        return condition[torch.tensor([row_of[ids] for ids in all_ids])]

    def _encoded(self, texts: list[tuple[TokenIds, str]]) -> Condition:
        """Calls each encoder once, with texts whose token ids are known."""
        condition = self.encode_texts([_encodable(text) for _, text in texts])
        if not self.empty_is_zero:
            return condition
        empty = self.token_ids("")
        has_text = upload(torch.tensor([ids != empty for ids, _ in texts]), condition.tokens.device)
        return _zeroed(condition, has_text)

    def token_ids(self, text: str) -> TokenIds:
        """The token ids of a text, by tokenizer; "A dog" and "a dog" may have the same ids."""
        return tuple(tower.ids(_encodable(text)) for tower in self.towers)

    def truncation_note(self, name: str, text: str) -> str | None:
        """A note for the row if an encoder truncates the text, else None."""
        lengths = [(tower, tower.num_tokens(_encodable(text))) for tower in self.towers]
        cut: dict[str, list[str]] = {}  # note: the encoders that it holds for
        for tower, num_tokens in lengths:
            if num_tokens > tower.max_tokens:
                what = f"{name} cut at {tower.max_tokens} of {num_tokens} tokens"
                cut.setdefault(what, []).append(tower.name)
        if not cut:
            return None
        if len(cut) == 1 and sum(map(len, cut.values())) == len(self.towers):
            return next(iter(cut))
        return "; ".join(f"{what} by {', '.join(names)}" for what, names in cut.items())


class EmptyText(TextEncoder):
    """What stays of a model's text encoders where only the empty text is asked for: its embedding.

    So an actor that inverts images holds no T5, which is larger than many a network.
    """

    def __init__(self, condition: Condition) -> None:
        """
        Args:
            condition: one row, of the empty text.
        """
        super().__init__((), _no_encoders, MicroBatch(1))
        self.condition = condition

    @classmethod
    @torch.inference_mode()
    def of(cls, text: TextEncoder) -> EmptyText:
        """The embedding that these encoders give, which may be freed afterwards.

        Raises:
            OutOfMemory: see ``MicroBatch.map``.
        """
        return cls(text.encode([""]))

    def with_micro_batch(self, micro_batch: MicroBatch) -> EmptyText:
        return self

    def encode(self, texts: Sequence[str]) -> Condition:
        for text in texts:
            self.token_ids(text)
        return self.condition[torch.zeros(len(texts), dtype=torch.long)]

    def token_ids(self, text: str) -> TokenIds:
        """
        Raises:
            ValueError: the text is not empty.
        """
        if text:
            raise ValueError(f"text {text!r}: no encoder is loaded here; allowed is the empty text")
        return ()


def _no_encoders(texts: list[str]) -> Condition:
    raise AssertionError("EmptyText encodes nothing")


def _zeroed(condition: Condition, has_text: Tensor) -> Condition:
    """The condition with zeros in the rows where ``has_text``, (N,) bool, is false."""
    pooled = condition.pooled
    return replace(
        condition,
        tokens=condition.tokens * has_text.view(-1, 1, 1),
        pooled=None if pooled is None else pooled * has_text.view(-1, 1),
    )


def _encodable(text: str) -> str:
    """The text without lone surrogates, which tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")
