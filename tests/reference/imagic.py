"""Imagic's loss and interpolation in float64, from the paper; shares no code with the pipeline."""

from __future__ import annotations

import numpy as np


def loss(
    prediction: np.ndarray, x0: np.ndarray, noise: np.ndarray, alpha: float, sigma: float, kind: str
) -> float:
    """arXiv:2210.09276, equation 1: the mean of ||target - f(x_t, t, e)||^2.

    ``prediction`` is the network's raw output; the target is what this kind of network learns.
    """
    if kind == "epsilon":
        target = noise
    elif kind == "v_prediction":  # arXiv:2202.00512
        target = alpha * noise - sigma * x0
    elif kind == "sample":
        target = x0
    else:  # a velocity, arXiv:2210.02747
        target = noise - x0
    return float(np.mean((target - prediction) ** 2))


def interpolation(e_tgt: np.ndarray, e_opt: np.ndarray, eta: float) -> np.ndarray:
    """arXiv:2210.09276, equation 3: from e_opt at 0 to e_tgt at 1."""
    return e_opt + eta * (e_tgt - e_opt)
