"""Imagic's mathematics: the loss of a fit, its minimisation, and the mix of embeddings.

# N edits, M draws a step, C channels, h w latent grid
Source: Imagic, arXiv:2210.09276; its three stages are named as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Condition, TrainableDenoiser
from pipeline.diffusion.noise import add_noise
from pipeline.diffusion.row_levels import RowLevels


def prediction_loss(
    denoiser: TrainableDenoiser,
    clean: Tensor,
    noise: Tensor,
    levels: RowLevels,
    condition: Condition,
    prediction_type: str,
) -> Tensor:
    """How far the network's prediction is from the truth, in what it was trained to predict.

    Args:
        denoiser: answers with eps, whatever the network predicts.
        clean: (N, C, h, w) float32.
        noise: same shape, standard normal.
        levels: N of them.
        condition: N rows.
        prediction_type: see ``loss_weight``.

    Returns:
        (N,) float32, the mean square over each row.

    Source: Imagic, equation 1. The paper's network predicts eps; others are fitted by the loss
    that they were trained with, since an error of eps says little about them at one end of the
    schedule and too much at the other.
    """
    eps = denoiser(add_noise(clean, noise, levels), levels, condition)
    square_N = (eps - noise).square().mean(dim=(1, 2, 3))
    return square_N * loss_weight(prediction_type, levels)


def loss_weight(prediction_type: str, levels: RowLevels) -> Tensor:
    """(N,) from the square error of eps to that of the network's own prediction.

    Raises:
        ValueError: the prediction type is none of epsilon, v_prediction, sample, flow.
    """
    alpha_N, sigma_N = levels.alpha.flatten(), levels.sigma.flatten()
    if prediction_type == "epsilon":
        return torch.ones_like(alpha_N)
    if prediction_type in ("v_prediction", "flow"):  # eps = alpha * v + ..., both times
        return alpha_N**-2
    if prediction_type == "sample":  # eps = (latent - alpha * x0) / sigma
        return (sigma_N / alpha_N) ** 2
    raise ValueError(f"prediction_type={prediction_type!r}: Imagic knows no loss for it")


def minimise(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    during: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Changes the parameters in place, by Adam, so that the loss becomes smaller.

    Rows of a batch do not meet: where row n of the loss depends on row n of the parameters alone,
    their sum has the gradients of each, and Adam works element by element.

    Args:
        parameters: leaves that require gradients.
        loss: draws anew at each call; (N,), of which the sum is minimised.
        steps: calls of the loss, each with its backward pass.
        learning_rate: Adam's.
        during: what loss and backward pass happen in (checkpointing runs the network in both).
    """
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with during():
                loss().sum().backward()
            optimizer.step()


def interpolated(target: Condition, optimised: Tensor, interp_eta: float) -> Condition:
    """The text that is generated from: eta * e_tgt + (1 - eta) * e_opt.

    Args:
        target: N rows, of the edit texts.
        optimised: (N, L, D), the fitted tokens. A summary of the text stays the edit text's.
        interp_eta: in [0, 1]; outside of it the mix would extrapolate.

    Source: Imagic, equation 3.
    """
    if not 0.0 <= interp_eta <= 1.0:
        raise ValueError(f"interp_eta={interp_eta}: allowed is [0, 1]")
    tokens = interp_eta * target.tokens + (1.0 - interp_eta) * optimised
    return Condition(tokens, target.pooled)
