"""How often torch has compiled in this process. Imports no torch."""

from __future__ import annotations

import sys


def num_compilations() -> int:
    """The graphs that torch has compiled in this process so far.

    One whose code came from the cache counts too: its shape was new to this process.
    """
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])
