"""The filters of a run: which edits are kept, by their scores. One line each, and presets.

    filter = name operator number        clip_directional >= 0.2

Filters have a fingerprint of their own: they change which computed edits are published, not what
is computed.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pipeline.config.scores import ALWAYS, BY_NETWORK, COMPUTED_BY
from pipeline.config.sections import Section
from pipeline.config.spelling import did_you_mean
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

# The filters of the data sets of these names, without their choice of the best of several images.
PRESETS = {
    # InstructPix2Pix (arXiv:2211.09800), as in its code; the paper says 0.75 for clip_image.
    "instruct_pix2pix": (
        *("clip_text_before >= 0.2", "clip_text_after >= 0.2"),
        *("clip_image >= 0.7", "clip_directional >= 0.2"),
    ),
    # UltraEdit (arXiv:2407.05282): free-form edits, and edits of a region.
    "ultraedit": ("clip_image >= 0.75", "clip_directional >= 0.22", "dinov2_image >= 0.4"),
    "ultraedit_region": ("clip_image >= 0.7", "clip_directional >= 0.22", "dinov2_image >= 0.4"),
}
FORM = "write 'name operator number', e.g. 'clip_directional >= 0.2', or {preset: name}"


class Preset(Section):
    """A named list of filters."""

    preset: str = Field(json_schema_extra={"enum": [*PRESETS]})


# What ``filters`` may hold in a file, for the JSON schema; ``canonical`` spells it out.
FilterText = Annotated[
    str,
    Field(
        pattern=rf"^\s*({SCORE})?({'|'.join(NAMES)})\s*(>=|<=|>|<)\s*"
        r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
    ),
]
FilterInput = FilterText | Preset | list[FilterText | Preset]


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
        """The column of the rows that holds the score."""
        return self.name if self.name == "mask_area" else f"{SCORE}{self.name}"

    @property
    def bounds_below(self) -> bool:
        return self.operator in (">=", ">")

    def is_met(self, value: float | None) -> bool:
        """Whether a score meets the condition, in float32 like the column. None meets nothing."""
        if value is None or math.isnan(value):
            return False
        return bool(OPERATORS[self.operator](np.float32(value), np.float32(self.threshold)))


@dataclass(frozen=True)
class Filtering:
    """All filters of a run, and whether rejected images are kept."""

    filters: tuple[Filter, ...] = ()
    keep_rejected: bool = True

    @property
    def texts(self) -> list[str]:
        return [str(item) for item in self.filters]

    @property
    def fingerprint(self) -> str:
        """sha256 of the filters, 64 hexadecimal digits. Does not depend on their order."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    def verdict(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """The first filter that rejects a row, and the value that each such filter saw.

        None if the row is kept.
        """
        failed = [item for item in self.filters if not item.is_met(row[item.column])]
        if not failed:
            return None
        return str(failed[0]), "; ".join(_seen(item, row[item.column]) for item in failed)


def filtering_of(texts: Collection[str], *, keep_rejected: bool = True) -> Filtering:
    """Reads filters from their texts."""
    return Filtering(tuple(parse_filter(text) for text in canonical(list(texts))), keep_rejected)


def parse_filter(text: str) -> Filter:
    """Reads one filter.

    Raises:
        ValueError: it does not follow the grammar, or names no score; says what is allowed.
    """
    match = GRAMMAR.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a filter; {FORM}")
    name = match["name"].removeprefix(SCORE)
    if name not in NAMES:
        hint = did_you_mean(name, NAMES)
        raise ValueError(f"'{text}': no score is called '{name}'; scores: {', '.join(NAMES)}{hint}")
    threshold = float(match["number"])
    if not math.isfinite(threshold):
        raise ValueError(f"'{text}': {match['number']} is not a finite number")
    return Filter(name, match["operator"], threshold)


def canonical(value: Any) -> list[str]:
    """The configured filters in one spelling and order, without duplicates or presets.

    Args:
        value: a filter, ``{preset: name}``, or a list of these.

    Raises:
        ValueError: the value is neither; says what is allowed.
    """
    filters: set[Filter] = set()
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str):
            filters.add(parse_filter(item))
        elif isinstance(item, Mapping) and set(item) == {"preset"}:
            filters.update(parse_filter(text) for text in _preset(item["preset"]))
        else:
            raise ValueError(f"{item!r} is not a filter; {FORM}")
    return [str(item) for item in sorted(filters)]


def check_computed(filters: Collection[str], computed: Collection[str]) -> None:
    """Refuses filters by scores that a run does not compute.

    Raises:
        ValueError: names the score, the scorer that computes it, and the scores of this run.
    """
    for text in filters:
        name = parse_filter(text).name
        if name not in computed:
            scorer = next(key for key, names in COMPUTED_BY.items() if name in names)
            raise ValueError(
                f"filters: '{text}': this run does not compute {name}; configure scores.{scorer}, "
                f"or filter by a score of this run: {', '.join(computed)}"
            )


def _preset(name: Any) -> tuple[str, ...]:
    if not isinstance(name, str) or name not in PRESETS:
        hint = did_you_mean(name, PRESETS)
        raise ValueError(f"no preset is called '{name}'; presets: {', '.join(PRESETS)}{hint}")
    return PRESETS[name]


def _seen(item: Filter, value: float | None) -> str:
    if value is None or math.isnan(value):
        return f"{item}: this edit has no {item.name}"
    return f"{item}: it is {value:.6g}"
