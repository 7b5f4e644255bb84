"""Further integrators in float64, in the papers' own coordinates: x, and lambda = log(a / s).

alpha_k, sigma_k = sqrt(a_k), sqrt(1 - a_k); ``a`` lists the cumulative alphas in the order of the
steps.
"""

from __future__ import annotations

import numpy as np

from tests.reference.ddim import Network


def ancestral_step(
    x: np.ndarray, eps: np.ndarray, z: np.ndarray, a_from: float, a_to: float, eta: float
) -> np.ndarray:
    """DDIM, arXiv:2010.02502, equation 12 with the sigma of equation 16; z is fresh noise."""
    sigma = eta * np.sqrt((1.0 - a_to) / (1.0 - a_from)) * np.sqrt(1.0 - a_from / a_to)
    predicted_x0 = (x - np.sqrt(1.0 - a_from) * eps) / np.sqrt(a_from)
    towards = np.sqrt(1.0 - a_to - sigma**2) * eps
    return np.sqrt(a_to) * predicted_x0 + towards + sigma * z


def dpmpp_2m(network: Network, x: np.ndarray, a: np.ndarray) -> list[np.ndarray]:
    """DPM-Solver++(2M), arXiv:2211.01095, algorithm 2: x at every level; ``a`` below 1."""
    alpha, sigma = np.sqrt(a), np.sqrt(1.0 - a)
    lam = np.log(alpha / sigma)
    xs, x0s = [x], []
    for k in range(len(a) - 1):
        x0s.append((xs[k] - sigma[k] * network(xs[k], k)) / alpha[k])
        h = lam[k + 1] - lam[k]
        if k == 0:
            d = x0s[0]
        else:
            r = (lam[k] - lam[k - 1]) / h
            d = (1.0 + 1.0 / (2.0 * r)) * x0s[k] - 1.0 / (2.0 * r) * x0s[k - 1]
        xs.append(sigma[k + 1] / sigma[k] * xs[k] - alpha[k + 1] * (np.exp(-h) - 1.0) * d)
    return xs
