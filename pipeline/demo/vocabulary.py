"""The demo model's vocabulary: a CLIP tokenizer in which each word of the world is one token."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pipeline.demo.backgrounds import BACKGROUNDS
from pipeline.demo.captions import PHRASINGS
from pipeline.demo.shapes import SHAPES
from pipeline.demo.world import COLORS

# The longest caption of the world has 20 tokens, and start and end tokens.
MAX_LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
# Common words that users may add to those of the world.
_COMMON_WORDS = (
    "the",
    "photo",
    "image",
    "one",
    "two",
    "three",
    "no",
    "empty",
    "very",
    "large",
    "small",
    "big",
)


def world_words() -> list[str]:
    """Every word that captions of the world use, and a few common ones, sorted."""
    texts = " ".join((*PHRASINGS, *BACKGROUNDS, *SHAPES, *COLORS, *_COMMON_WORDS, "a an and"))
    return sorted(set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", texts))))


def byte_symbols() -> list[str]:
    """The 256 printable characters that represent bytes in CLIP's byte-level BPE, in its order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]


def merges() -> list[tuple[str, str]]:
    """Merges that build each word letter by letter; the last letter has the end-of-word mark."""
    joined: dict[tuple[str, str], None] = {}
    # Earlier merges win, so long words come first. Otherwise "and" would split "sand", and "an"
    # would split "orange".
    for word in sorted(world_words(), key=lambda word: (-len(word), word)):
        letters = [*word[:-1], f"{word[-1]}</w>"]
        for count in range(1, len(letters)):
            joined[("".join(letters[:count]), letters[count])] = None
    return list(joined)


def vocabulary() -> dict[str, int]:
    """Token ids by token: bytes, word-final bytes, merged pieces, then start and end tokens."""
    symbols = byte_symbols()
    pieces = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    tokens = list(dict.fromkeys([*pieces, *("".join(pair) for pair in merges())]))
    return {token: number for number, token in enumerate([*tokens, START, END])}


def write_tokenizer(folder: Path) -> None:
    """Write vocab.json, merges.txt and tokenizer_config.json in CLIPTokenizer's format."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps(vocabulary(), ensure_ascii=False), encoding="utf-8"
    )
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges())]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )
