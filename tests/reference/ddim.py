"""DDIM and its schedule in float64, from the papers; shares no code with the pipeline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Network = Callable[[np.ndarray, int], np.ndarray]  # (latent at a level, the level's index) -> eps


def stable_diffusion_alphas_cumprod() -> np.ndarray:
    """Stable Diffusion's 1000 cumulative alphas: betas linear in their square roots."""
    alphas_cumprod, product = [], 1.0
    for t in range(1000):
        root = 0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * t / 999
        product *= 1.0 - root * root
        alphas_cumprod.append(product)
    return np.array(alphas_cumprod)


def ddim_step(x: np.ndarray, eps: np.ndarray, a_from: float, a_to: float) -> np.ndarray:
    """DDIM, arXiv:2010.02502, equation 12 with sigma 0; a is the cumulative alpha.

    The predicted x0, then the direction pointing to x_t. Encoding uses the same formula.
    """
    predicted_x0 = (x - np.sqrt(1.0 - a_from) * eps) / np.sqrt(a_from)
    return np.sqrt(a_to) * predicted_x0 + np.sqrt(1.0 - a_to) * eps


def encode(network: Network, x0: np.ndarray, a: np.ndarray) -> list[np.ndarray]:
    """DiffEdit's E_r: x at every level of ``a`` (ascending noise), the clean one first."""
    xs = [x0]
    for k in range(len(a) - 1):
        xs.append(ddim_step(xs[k], network(xs[k], k), a[k], a[k + 1]))
    return xs


def masked_decode(
    network: Network, xs: list[np.ndarray], a: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """DiffEdit's step 3: D_r, after each step y <- M y + (1 - M) x of the same level."""
    y = xs[-1]
    for k in range(len(a) - 1, 0, -1):
        y = ddim_step(y, network(y, k), a[k], a[k - 1])
        y = mask * y + (1.0 - mask) * xs[k - 1]
    return y


def guidance(eps_text: np.ndarray, eps_empty: np.ndarray, scale: float) -> np.ndarray:
    """Classifier-free guidance, arXiv:2207.12598, equation 6 with scale = 1 + w."""
    w = scale - 1.0
    return (1.0 + w) * eps_text - w * eps_empty


def noised(x0: np.ndarray, noise: np.ndarray, a: float) -> np.ndarray:
    """SDEdit's variance-preserving perturbation, arXiv:2108.01073: x(t0) from x0."""
    return np.sqrt(a) * x0 + np.sqrt(1.0 - a) * noise
