"""Makes text of any origin safe to show: on a terminal, in a log line, in the report.

Names of shards, keys, captions and messages come from data. A control character in one of them
moves the cursor, a direction mark reverses what follows, and half of a surrogate pair (which stands
for a byte that is not UTF-8) cannot be written at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

# C0 and C1 controls, marks of direction, separators of lines, the byte order mark, surrogates
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str, *, keep: str = "") -> str:
    """The text with each character that is not safe to show as an escape, such as ``\\x1b``.

    Args:
        text: of any origin.
        keep: characters that stay, such as a newline between lines of our own.
    """
    return UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def printable_json(value: Any, **options: Any) -> str:
    """``json.dumps`` with all other scripts as they are, and nothing that is not safe to show.

    The escapes are JSON's own, so a reader gets the value as it was.

    Args:
        value: JSON-able.
        options: for ``json.dumps``.
    """
    text = json.dumps(value, ensure_ascii=False, **options)
    return UNPRINTABLE.sub(lambda found: _json_escape(found[0]), text)


def first_of(names: Sequence[str], limit: int = 3) -> str:
    """The first names as a list for a sentence, with "..." if there are more."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _json_escape(character: str) -> str:
    """A newline stands between JSON's lines: in a string it is escaped already."""
    return character if character == "\n" else f"\\u{ord(character):04x}"
