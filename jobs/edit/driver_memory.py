"""What the driver does so that its memory does not grow with the length of a run."""

from __future__ import annotations

import ctypes
import gc

M_ARENA_MAX = -8  # of glibc's malloc.h
# Ray Data and gRPC start threads for each wave, and glibc gives new threads arenas of their own, up
# to eight for each core, of which each keeps what it once grew to.
ARENAS = 2


def limit_malloc_arenas() -> None:
    """Before threads start. Does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)


def release_memory() -> None:
    """Frees what a Dataset that has ended still holds. To be called between waves.

    Its executor, its operators and its actors' handles refer to each other in circles, which only
    the collector breaks, and Python runs it for the oldest objects rarely. As long as a handle
    lives, so may its actor, with what it reserves. Free pages go back to the system then.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
