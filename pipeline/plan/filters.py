"""`_run/filters.json`: the filters in force. What is published of an output follows these alone.

Filters are not in the fingerprint: computed parts know no filter. So the output says itself which
filters its shards are published with, and whether that is so of all of them already.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.config.filters import NAMES, Filtering, canonical, filtering_of, parse_filter
from pipeline.records.rows import SCORE
from pipeline.storage.store import Store

FILTERS_FILE = "_run/filters.json"


@dataclass(frozen=True)
class FiltersInForce:
    """What ``_run/filters.json`` says."""

    filters: list[str]
    applied: bool = True  # False: shards that others filtered may still be published

    def to_json(self) -> bytes:
        fingerprint = filtering_of(self.filters).fingerprint
        tree = {"filters": self.filters, "fingerprint": fingerprint, "applied": self.applied}
        return (json.dumps(tree, indent=2, sort_keys=True) + "\n").encode()


def read_filters(output: Store) -> FiltersInForce | None:
    """The filters in force; None where no run has said."""
    try:
        tree = json.loads(output.get(FILTERS_FILE))
    except FileNotFoundError:
        return None
    return FiltersInForce(canonical(tree["filters"]), bool(tree["applied"]))


def check_filters(path: str, saved: FiltersInForce | None, wanted: Filtering) -> None:
    """Refuses a run whose filters are not those in force.

    Raises:
        ValueError: names both, and the command that applies other filters to what is published.
    """
    if saved is None or saved.filters == wanted.texts:
        return
    options = " ".join(["--clear", *(f"--set '{text}'" for text in wanted.texts)])
    raise ValueError(
        f"filters={wanted.texts}: the output is filtered by {saved.filters or 'nothing'}. Set them "
        f"back, or apply the new ones without computing anything: overpaint refilter {path} "
        f"{options}"
    )


def changed_filters(
    current: Sequence[str],
    *,
    given: Sequence[str | dict[str, str]] = (),
    dropped: Collection[str] = (),
    clear: bool = False,
) -> list[str]:
    """The filters after a change of some.

    Args:
        current: the filters in force.
        given: filters or presets; each takes the place of those on the same score that bound it
            from the same side.
        dropped: names of scores that are not to be filtered by.
        clear: begin without any.

    Raises:
        ValueError: a filter or a name that is none, or a dropped name that is not filtered by.
    """
    kept = [] if clear else [parse_filter(text) for text in current]
    for name in (name.removeprefix(SCORE) for name in dropped):
        if name not in NAMES or all(item.name != name for item in kept):
            filtered = ", ".join(sorted({item.name for item in kept})) or "none"
            raise ValueError(f"no filter on '{name}' is in force; filtered by are: {filtered}")
        kept = [item for item in kept if item.name != name]
    new = [parse_filter(text) for text in canonical(list(given))]
    replaced = {(item.name, item.bounds_below) for item in new}
    kept = [item for item in kept if (item.name, item.bounds_below) not in replaced]
    return canonical([str(item) for item in (*kept, *new)])
