"""Keeps the driver's memory from growing with the length of a run."""

from __future__ import annotations

import ctypes
import gc

M_ARENA_MAX = -8  # of glibc's malloc.h
# Ray Data and gRPC start threads for each wave. glibc gives new threads their own arenas, up to
# eight per core, and an arena never shrinks.
ARENAS = 2


def limit_malloc_arenas() -> None:
    """Limits glibc's arenas. Call this before threads start; other C libraries ignore it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)


def release_memory() -> None:
    """Frees what a finished Dataset still holds, and returns free pages to the system.

    Call this between waves. A Dataset's executor, operators and actor handles form reference
    cycles, and Python rarely collects cycles of old objects. While a handle lives, its actor may
    live too, and keep its reserved resources.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
