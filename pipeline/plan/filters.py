"""`_run/filters.json`: the filters in force, with which all shards of an output are published.

Filters are not part of the fingerprint, since they do not affect staged parts. So the output itself
records its filters, and whether all published shards follow them yet.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.config.filters import NAMES, Filtering, canonical, filtering_of, parse_filter
from pipeline.records.rows import SCORE
from pipeline.records.run_files import OF_FILTERS, RunFileError, parse_filters, sealed_json
from pipeline.storage.store import Store

FILTERS_FILE = "_run/filters.json"


@dataclass(frozen=True)
class FiltersInForce:
    """The content of ``_run/filters.json``."""

    filters: list[str]
    applied: bool = True  # False: some shards may still be published with older filters

    def to_json(self) -> bytes:
        fingerprint = filtering_of(self.filters).fingerprint
        tree = {"filters": self.filters, "fingerprint": fingerprint, "applied": self.applied}
        return sealed_json(tree, ascii_only=True)


def read_filters(output: Store) -> FiltersInForce | None:
    """The filters in force; None if no run has recorded any.

    Raises:
        RunFileError: the file cannot be used.
    """
    place = f"{output.url}/{FILTERS_FILE}"
    try:
        record = parse_filters(output.get(FILTERS_FILE), place)
    except FileNotFoundError:
        return None
    try:
        return FiltersInForce(canonical(record.filters), record.applied)
    except ValueError as error:
        raise RunFileError(place, f"is damaged: {error}", OF_FILTERS) from None


def check_filters(path: str, saved: FiltersInForce | None, wanted: Filtering) -> None:
    """Refuses a run whose filters are not those in force.

    Raises:
        ValueError: names both, and the command that applies the new filters to published shards.
    """
    if saved is None or saved.filters == wanted.texts:
        return
    options = " ".join(["--clear", *(f"--set '{text}'" for text in wanted.texts)])
    raise ValueError(
        f"filters={wanted.texts}: the output's filters are {saved.filters or 'none'}. Set them "
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
    """The filters after some are added, replaced or dropped.

    Args:
        current: the filters in force.
        given: filters or presets to add; each replaces those that bound the same score from the
            same side.
        dropped: names of scores; their filters are removed.
        clear: remove all current filters first.

    Raises:
        ValueError: a filter or name is not valid, or a dropped name has no filter.
    """
    kept = [] if clear else [parse_filter(text) for text in current]
    for name in (name.removeprefix(SCORE) for name in dropped):
        if name not in NAMES or all(item.name != name for item in kept):
            filtered = ", ".join(sorted({item.name for item in kept})) or "none"
            raise ValueError(f"no filter on '{name}' is in force; there are filters on: {filtered}")
        kept = [item for item in kept if item.name != name]
    new = [parse_filter(text) for text in canonical(list(given))]
    replaced = {(item.name, item.bounds_below) for item in new}
    kept = [item for item in kept if (item.name, item.bounds_below) not in replaced]
    return canonical([str(item) for item in (*kept, *new)])
