"""How torch's allocator of GPU memory is set up; this must run before torch is imported."""

from __future__ import annotations

import os

VARIABLE = "PYTORCH_ALLOC_CONF"
# torch reads these first or beside it; what a user says in any of them stays as it is.
OLDER_NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
SETTING = "expandable_segments:True"


def use_expandable_segments() -> None:
    """Lets torch grow its segments of GPU memory, unless the environment sets up the allocator.

    Parts differ in their shapes, and so do the blocks that they leave free. Blocks of fixed
    segments fit the next part only by chance, so memory may run out though much is free.
    """
    if not any(name in os.environ for name in (VARIABLE, *OLDER_NAMES)):
        os.environ[VARIABLE] = SETTING
