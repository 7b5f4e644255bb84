"""Says once that parts are lost for lack of room in Ray's object store, and what to change.

Ray Data hands parts on in shared memory and spills to a disk what does not fit. Where that is full
too, Ray fails the task whose part has no room, and says so in the log of Ray Data alone, with a
traceback for each part.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from jobs.logs import tell

RAY_DATA = "ray.data"
LOGGER = f"{RAY_DATA}._internal.execution.streaming_executor_state"  # of lost blocks, in Ray 2.60
FULL = (
    "parts are lost: Ray's object store is full, and so is the disk to which it spills; they are "
    "computed one by one at the end, which is slow. Set run.readers lower, or run.part_size (in a "
    "new output), or make room: by default the store is in /dev/shm and spills below /tmp/ray "
    "(RAY_TMPDIR names another folder; for a cluster, ray start --object-store-memory and "
    "--object-spilling-directory)"
)


class FullStore:
    """Watches Ray Data's errors of lost parts during a run."""

    def __init__(self) -> None:
        self.told = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While a Dataset runs; its log shows no more and no less than before."""
        logger = logging.getLogger(LOGGER)
        level = logger.level
        if not logger.isEnabledFor(logging.ERROR):
            logger.setLevel(logging.ERROR)
        logger.addFilter(self._seen)
        try:
            yield
        finally:
            logger.removeFilter(self._seen)
            logger.setLevel(level)

    def _seen(self, record: logging.LogRecord) -> bool:
        """A filter of records: tells the first that is about room; False if it was not shown."""
        error = record.exc_info[1] if record.exc_info else None
        if not self.told and _is_full(error):
            self.told = True
            tell(FULL, level="warning")
        return logging.getLogger(RAY_DATA).isEnabledFor(record.levelno)


def _is_full(error: BaseException | None) -> bool:
    """Whether this error, or one behind it, says that the object store had no room."""
    while error is not None:
        if isinstance(error, OutOfDiskError | ObjectStoreFullError):
            return True
        error = getattr(error, "cause", None) or error.__cause__
    return False
