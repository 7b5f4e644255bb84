"""What a family's file says about texts and latents, and how a model is refused. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]  # a config as stored
NO_LIMIT = 2**16  # multiples a side, for a network that takes any
Vocabularies = tuple[tuple[str, ...], ...]  # the alternatives, each with all files that it needs

CLIP_VOCABULARY: Vocabularies = (("tokenizer.json",), ("vocab.json", "merges.txt"))
T5_VOCABULARY: Vocabularies = (("tokenizer.json",), ("spiece.model",))
JSON_VOCABULARY: Vocabularies = (("tokenizer.json",),)


class UnsupportedModelError(ValueError):
    """A model needs what is not supported; the message names key, value and what is allowed."""


@dataclass(frozen=True)
class Text:
    """A text encoder and its tokenizer.

    Attributes:
        encoder: its class in transformers.
        tokenizer: likewise.
        suffix: of the folders text_encoder and tokenizer.
        max_tokens: texts are padded and truncated to this length; None: to the smaller of the
            tokenizer's limit and the encoder's positions; or a function of the tokenizer.
        vocabularies: what the tokenizer's folder must hold.
        optional: whether a folder may leave it out.
        template: what the tokenizer gets of (tokenizer, text); None: the text itself.
    """

    encoder: str
    tokenizer: str
    suffix: str = ""
    max_tokens: int | Callable[[Any], int] | None = None
    vocabularies: Vocabularies = CLIP_VOCABULARY
    optional: bool = False
    template: Callable[[Any, str], str] | None = None

    @property
    def folders(self) -> tuple[str, str]:
        """Those of the encoder and of the tokenizer."""
        return f"text_encoder{self.suffix}", f"tokenizer{self.suffix}"


@dataclass(frozen=True)
class Grid:
    """The latent grid of a model.

    Attributes:
        scale: side of one latent cell in pixels.
        channels: C.
        multiple: an image's sides are multiples of this, in pixels.
        native_size: side of the training images in pixels.
        largest: the longest side in pixels, where the network has so many positions; else None.
        halvings: how often the network halves its grid.
    """

    scale: int
    channels: int
    multiple: int
    native_size: int
    largest: int | None = None
    halvings: int = 0

    @property
    def longest(self) -> int:
        """The longest side that an image may have, in pixels."""
        return self.largest or NO_LIMIT * self.multiple
