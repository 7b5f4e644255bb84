"""Many small calls at once, of a store or on images, answered in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

READERS = 16  # threads
WINDOW = 4096  # calls that are handed to them at once: a future takes 1 kB, so not a million
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def in_threads(
    call: Callable[[Item], Answer],
    items: Sequence[Item],
    *,
    threads: int = READERS,
    window: int = WINDOW,
) -> Iterator[tuple[Item, Answer]]:
    """Each item with what the call gives for it, in the order of the items.

    Args:
        call: of one item, in a thread.
        items: all of them.
        threads: calls at once; 1: in the caller's own thread.
        window: answers that are held at once, at most.
    """
    if threads == 1:
        yield from ((item, call(item)) for item in items)
        return
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), window):
            some = items[start : start + window]
            yield from zip(some, pool.map(call, some), strict=True)
