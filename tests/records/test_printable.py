"""Texts of any origin are shown without what moves a cursor, and are read back from JSON as is."""

from __future__ import annotations

import json

from pipeline.records.printable import printable, printable_json

HOSTILE = "a\x1b[31m\nb\x07\x9b2J\u202egpj\u2066\udcff\ufeff"


def test_unsafe_characters_become_escapes() -> None:
    """Controls, marks of direction, and what stands for a byte that is not UTF-8."""
    assert printable(HOSTILE) == r"a\x1b[31m\x0ab\x07\x9b2J\u202egpj\u2066\udcff\ufeff"
    assert printable("a\nb\tc\x1b", keep="\n\t") == "a\nb\tc\\x1b"


def test_other_texts_stay() -> None:
    """All scripts, emoji and the joiners inside them, rich's markup, backslashes."""
    for text in ("[/x] :smile:", "犬 на траве", "\U0001f469\u200d\U0001f680", "C:\\x", "e\u0301"):
        assert printable(text) == text


def test_json_is_read_back_as_it_was() -> None:
    """The escapes are those of JSON; lines of an indented text stay lines."""
    text = printable_json({HOSTILE: [HOSTILE]}, indent=1)
    assert printable(text, keep="\n") == text
    assert json.loads(text) == {HOSTILE: [HOSTILE]}
