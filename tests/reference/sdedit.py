"""SDEdit in float64, arXiv:2108.01073: noise, denoise, K times; the VP form, sampled with DDIM."""

from __future__ import annotations

import numpy as np

from tests.reference.ddim import Network, ddim_step, noised


def sdedit(
    network: Network, x0: np.ndarray, noises: list[np.ndarray], a: np.ndarray, edit_mask: np.ndarray
) -> np.ndarray:
    """``a`` ascends from the clean level to t0; one noise a repeat; edit_mask: 1 = edit.

    Outside the mask each step puts back the input noised to that step's level, the last one the
    input itself. (The authors' code calls its mask by the reverse: 1 = keep.)
    """
    guide = x0
    for noise in noises:
        x = noised(guide, noise, a[-1])
        for k in range(len(a) - 1, 0, -1):
            x = ddim_step(x, network(x, k), a[k], a[k - 1])
            put_back = noised(x0, noise, a[k - 1]) if k > 1 else x0
            x = edit_mask * x + (1.0 - edit_mask) * put_back
        guide = x
    return guide
