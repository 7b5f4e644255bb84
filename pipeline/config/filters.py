"""Filters: which edits of a run are kept, by their scores. A grammar of one line, and presets.

    filter = name operator number        clip_directional >= 0.2

Filters have a fingerprint of their own: they change what is published of the computed parts, and
not what is computed.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config.scores import ALWAYS, BY_NETWORK, COMPUTED_BY
from pipeline.records.rows import SCORE

OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
GRAMMAR = re.compile(
    r"\s*(?P<name>[A-Za-z]\w*)\s*(?P<operator>>=|<=|>|<)\s*"
    r"(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*"
)
NAMES = (*ALWAYS, *sorted(BY_NETWORK))

# What the data sets of these names were filtered by. Best-of-several selection is not in here.
PRESETS = {
    # InstructPix2Pix (arXiv:2211.09800): its code; the paper says 0.75 for the images.
    "instruct_pix2pix": (
        *("clip_text_before >= 0.2", "clip_text_after >= 0.2"),
        *("clip_image >= 0.7", "clip_directional >= 0.2"),
    ),
    # UltraEdit (arXiv:2407.05282), free-form edits; and those of a region.
    "ultraedit": ("clip_image >= 0.75", "clip_directional >= 0.22", "dinov2_image >= 0.4"),
    "ultraedit_region": ("clip_image >= 0.7", "clip_directional >= 0.22", "dinov2_image >= 0.4"),
}
FORM = "write 'name operator number', e.g. 'clip_directional >= 0.2', or {preset: name}"


@dataclass(frozen=True, order=True)
class Filter:
    """One condition that an edit must meet to be kept."""

    name: str  # of a score, without "score_"; or mask_area
    operator: str
    threshold: float

    def __str__(self) -> str:
        number = f"{self.threshold:g}"
        exact = number if float(number) == self.threshold else repr(self.threshold)
        return f"{self.name} {self.operator} {exact}"

    @property
    def column(self) -> str:
        """The column of the rows that it looks at."""
        return self.name if self.name == "mask_area" else f"{SCORE}{self.name}"

    @property
    def bounds_below(self) -> bool:
        return self.operator in (">=", ">")

    def is_met(self, value: float | None) -> bool:
        """Whether a score meets it, compared in float32 like the column; without a score: no."""
        if value is None or math.isnan(value):
            return False
        return bool(OPERATORS[self.operator](np.float32(value), np.float32(self.threshold)))


@dataclass(frozen=True)
class Filtering:
    """What is published of computed parts: all filters of a run, and what becomes of the rest."""

    filters: tuple[Filter, ...] = ()
    keep_rejected: bool = True

    @property
    def texts(self) -> list[str]:
        return [str(item) for item in self.filters]

    @property
    def fingerprint(self) -> str:
        """sha256 of the filters, 64 hexadecimal digits; their order as given is no matter."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    def verdict(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """The filter that rejects a row, and what all that reject it saw; None if it is kept."""
        failed = [item for item in self.filters if not item.is_met(row[item.column])]
        if not failed:
            return None
        return str(failed[0]), "; ".join(_seen(item, row[item.column]) for item in failed)


def filtering_of(texts: Collection[str], *, keep_rejected: bool = True) -> Filtering:
    """The ``Filtering`` of filters as texts."""
    return Filtering(tuple(parse_filter(text) for text in canonical(list(texts))), keep_rejected)


def parse_filter(text: str) -> Filter:
    """Reads one filter.

    Raises:
        ValueError: it is not of the grammar, or names no score; the message says what is allowed.
    """
    match = GRAMMAR.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is no filter; {FORM}")
    name = match["name"].removeprefix(SCORE)
    if name not in NAMES:
        raise ValueError(f"'{text}': no score is called '{name}'; there are {', '.join(NAMES)}")
    threshold = float(match["number"])
    if not math.isfinite(threshold):
        raise ValueError(f"'{text}': {match['number']} is not a finite number")
    return Filter(name, match["operator"], threshold)


def canonical(value: Any) -> list[str]:
    """Filters as configured, in one spelling and one order, each once, presets spelled out.

    Args:
        value: a filter, ``{preset: name}``, or a list of these.

    Raises:
        ValueError: something else; the message says what is allowed.
    """
    filters: set[Filter] = set()
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str):
            filters.add(parse_filter(item))
        elif isinstance(item, Mapping) and set(item) == {"preset"}:
            filters.update(parse_filter(text) for text in _preset(item["preset"]))
        else:
            raise ValueError(f"{item!r} is no filter; {FORM}")
    return [str(item) for item in sorted(filters)]


def check_computed(filters: Collection[str], computed: Collection[str]) -> None:
    """Refuses filters on scores that a run does not compute.

    Raises:
        ValueError: names the score, what computes it, and the scores that there are.
    """
    for text in filters:
        name = parse_filter(text).name
        if name not in computed:
            scorer = next(key for key, names in COMPUTED_BY.items() if name in names)
            raise ValueError(
                f"filters: '{text}': this run does not compute {name}; configure scores.{scorer}, "
                f"or filter by what is computed: {', '.join(computed)}"
            )


def _preset(name: Any) -> tuple[str, ...]:
    if name not in PRESETS:
        raise ValueError(f"preset '{name}' is not known; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _seen(item: Filter, value: float | None) -> str:
    if value is None or math.isnan(value):
        return f"{item}: this edit has no {item.name}"
    return f"{item}: it is {value:.6g}"
