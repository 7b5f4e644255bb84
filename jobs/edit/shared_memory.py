"""Says that /dev/shm is too small for Ray's object store, as in a container by default.

Ray then keeps the store on a disk, and warns of it where this command does not show warnings; or it
refuses to start, where the store would have more than 10 GB.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.logs import tell
from pipeline.config.load import ConfigError

LOGGER = "ray._private.services"  # of that warning, in Ray 2.60
WARNED, REFUSED = "The object store is using", "exceeds /dev/shm size"
REMEDY = (
    "give it a third of the memory (docker run --shm-size, or --ipc=host), or remove files from it"
)


@contextmanager
def small_shared_memory_told() -> Iterator[None]:
    """While a local Ray starts.

    Raises:
        ConfigError: Ray refuses to start because of it.
    """
    logger = logging.getLogger(LOGGER)
    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addFilter(_seen)
    try:
        yield
    except ValueError as error:
        if REFUSED not in str(error):
            raise
        raise ConfigError(
            f"/dev/shm has {_free()} free, too little for Ray's object store; {REMEDY}; "
            "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE=1 in the environment puts the store on a disk"
        ) from error
    finally:
        logger.removeFilter(_seen)
        logger.setLevel(level)


def _seen(record: logging.LogRecord) -> bool:
    """A filter of records: tells that one in our words; False for what would not be shown."""
    if WARNED in record.getMessage():
        tell(
            f"/dev/shm has {_free()} free, so Ray's object store is on a disk (RAY_TMPDIR, else "
            f"/tmp/ray), which is slower; {REMEDY}",
            level="warning",
        )
        return False
    return logging.getLogger("ray").isEnabledFor(record.levelno)


def _free() -> str:
    free = os.statvfs("/dev/shm")
    return f"{free.f_bavail * free.f_frsize / 1e6:.0f} MB"
