"""What was probably meant by a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.5  # similarity of difflib, in [0, 1]


def nearest(given: object, allowed: Iterable[str]) -> str | None:
    """The allowed name that resembles what was given, in any case; None if none does."""
    if not isinstance(given, str):
        return None
    by_case = {name.lower(): name for name in allowed}
    found = difflib.get_close_matches(given.lower(), by_case, n=1, cutoff=CUTOFF)
    return by_case[found[0]] if found else None


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """The end of an error's sentence: "; did you mean 'x'?", or nothing."""
    name = nearest(given, allowed)
    return "" if name is None else f"; did you mean '{name}'?"
