"""What the plain loop does beside its stages: read ahead of them, finish and commit behind them.

Decoding, encoding, hashing and input and output let go of the interpreter's lock, and so do the
networks: one thread before the stages and one behind them run while they do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def prefetch(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items in their order, the next one being made in a thread while one is worked on.

    What making an item raises comes out at its place, after the items before it. Close the
    generator to end the thread early; that waits for the item that is being made.
    """
    with _thread("overpaint ahead") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def write_behind(
    call: Callable[[Item], Answer], items: Iterable[Item]
) -> Generator[Answer, None, None]:
    """``call`` of each item, in their order, in a thread while the next item comes.

    One call at a time: the answer to the last one is given out before the next one begins, so that
    nothing is called any more once one has failed, or once the caller has raised. An item that
    cannot be had raises after the answers to those before it. Close the generator to end the thread
    early; that waits for the call that is being made.
    """
    left, failure = iter(items), None
    with _thread("overpaint behind") as thread:
        called: Future[Answer] | None = None
        while failure is None:
            item = None
            try:
                item = next(left, None)
            except Exception as error:  # noqa: BLE001 - raised below, after what came before it
                failure = error
            if called is not None:
                yield called.result()
            if item is None:
                break
            called = thread.submit(call, item)
    if failure is not None:
        raise failure


@contextmanager
def _thread(name: str) -> Iterator[ThreadPoolExecutor]:
    """A thread for one call after the other; what is not begun when the block ends is dropped."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
