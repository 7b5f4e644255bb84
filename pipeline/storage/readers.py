"""Runs many small calls in threads (to a store, or on images) and yields the results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

READERS = 16  # threads
WINDOW = 4096  # calls submitted at once; a future takes 1 kB, so a million would take 1 GB
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    call: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    threads: int = READERS,
    window: int = WINDOW,
) -> Iterator[tuple[Item, Result]]:
    """Calls ``call`` for each item in threads; yields (item, result) in the order of the items.

    Args:
        call: takes one item.
        items: all items.
        threads: calls at once; 1 runs them in the caller's own thread.
        window: results held at once, at most.
    """
    if threads == 1:
        yield from ((item, call(item)) for item in items)
        return
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), window):
            batch = items[start : start + window]
            yield from zip(batch, pool.map(call, batch), strict=True)
