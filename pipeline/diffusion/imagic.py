"""Imagic's mathematics: the training loss, its minimization, and embedding interpolation.

# N edits, M draws per step, C channels, h w latent grid
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
    """The squared error of the network's prediction, in the quantity it was trained to predict.

    Args:
        denoiser: returns eps, whatever the network predicts.
        clean: (N, C, h, w) float32.
        noise: same shape, standard normal.
        levels: N of them.
        condition: N rows.
        prediction_type: see ``loss_weight``.

    Returns:
        (N,) float32, the mean square over each row.

    Source: Imagic, equation 1. The paper's network predicts eps. Other networks are fitted with
    their own training loss, because the error of eps weighs their error too little at one end of
    the schedule and too much at the other.
    """
    eps = denoiser(add_noise(clean, noise, levels), levels, condition)
    square_N = (eps - noise).square().mean(dim=(1, 2, 3))
    return square_N * loss_weight(prediction_type, levels)


def loss_weight(prediction_type: str, levels: RowLevels) -> Tensor:
    """(N,) factors from the squared error of eps to that of the network's own prediction.

    Raises:
        ValueError: the prediction type is not epsilon, v_prediction, sample or flow.
    """
    alpha_N, sigma_N = levels.alpha.flatten(), levels.sigma.flatten()
    if prediction_type == "epsilon":
        return torch.ones_like(alpha_N)
    if prediction_type in ("v_prediction", "flow"):  # eps = alpha * v + ... for both
        return alpha_N**-2
    if prediction_type == "sample":  # eps = (latent - alpha * x0) / sigma
        return (sigma_N / alpha_N) ** 2
    raise ValueError(
        f"prediction_type={prediction_type!r}: Imagic has no loss for it; allowed are "
        "epsilon, v_prediction, sample, flow"
    )


def minimize(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    context: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Minimizes the loss with Adam; changes the parameters in place.

    Rows of a batch stay independent if row n of the loss depends only on row n of the parameters:
    the gradient of the sum is then each row's own gradient, and Adam works element by element.

    Args:
        parameters: leaf tensors that require gradients.
        loss: returns (N,) with fresh draws at each call; its sum is minimized.
        steps: number of optimizer steps, each with one call of the loss and one backward pass.
        learning_rate: Adam's.
        context: entered around loss and backward pass (checkpointing runs the network in both).
    """
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with context():
                loss().sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()


def interpolated(target: Condition, optimized: Tensor, interp_eta: float) -> Condition:
    """The condition to generate with: eta * e_tgt + (1 - eta) * e_opt.

    Args:
        target: N rows, of the edit texts. Their pooled embedding is kept as it is.
        optimized: (N, L, D), the fitted tokens.
        interp_eta: in [0, 1]; other values would extrapolate.

    Source: Imagic, equation 3.
    """
    if not 0.0 <= interp_eta <= 1.0:
        raise ValueError(f"interp_eta={interp_eta}: allowed is [0, 1]")
    tokens = interp_eta * target.tokens + (1.0 - interp_eta) * optimized
    return target.with_tokens(tokens)
