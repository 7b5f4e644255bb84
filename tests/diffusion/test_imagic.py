"""Imagic's loss, its minimization and its interpolation, compared with the float64 reference."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.imagic import interpolated, minimize, prediction_loss
from pipeline.diffusion.noise import add_noise, draw_fit
from pipeline.diffusion.row_levels import RowLevels
from pipeline.diffusion.schedule import Level
from pipeline.models.loading import load_model
from tests.reference import imagic as reference
from tests.tiny_models import make_tiny_stable_diffusion

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_loss_is_that_of_the_networks_own_prediction(
    tmp_path: Path, kind: str, generator: torch.Generator
) -> None:
    """For each prediction type, at clean and noisy levels, the loss is that of the raw output."""
    model = load_model(Model(path=str(make_tiny_stable_diffusion(tmp_path, kind))), "cpu", Stage())
    levels = [model.schedule.level_at(share) for share in (0.0, 0.1, 0.5, 1.0)]
    clean, noise = torch.randn(2, 4, 4, 8, 8, generator=generator)
    rows = RowLevels.of(levels, CPU)
    with torch.no_grad():
        text = model.text.encode(["a cat"] * 4)
        ours = prediction_loss(model.unbatched, clean, noise, rows, text, kind)
        noisy = add_noise(clean, noise, rows)
        raw = model.unbatched.network(noisy, rows.timestep, text.tokens).sample
    for n, level in enumerate(levels):
        prediction, x0, eps = (tensor[n].double().numpy() for tensor in (raw, clean, noise))
        theirs = reference.loss(prediction, x0, eps, level.alpha, level.sigma, kind)
        assert float(ours[n]) == pytest.approx(theirs, rel=1e-5)


def test_loss_of_a_flow_is_that_of_its_velocity(generator: torch.Generator) -> None:
    """For flow matching, eps = latent + alpha * velocity, and the loss is that of the velocity."""

    class Flow:
        network = nn.Identity()

        def __call__(
            self, latent: Tensor, level: Level | RowLevels, condition: Condition
        ) -> Tensor:
            return latent + level.alpha * torch.sin(latent)

    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=generator)
    shares = (0.1, 0.5, 0.95)
    levels = [Level(-1, 1000 * s, 1 - s, s) for s in shares]
    ours = prediction_loss(
        Flow(), clean, noise, RowLevels.of(levels, CPU), Condition(clean), "flow"
    )
    for n, s in enumerate(shares):
        x0, eps = clean[n].double().numpy(), noise[n].double().numpy()
        velocity = np.sin((1 - s) * x0 + s * eps)
        theirs = reference.loss(velocity, x0, eps, 1 - s, s, "velocity")
        assert float(ours[n]) == pytest.approx(theirs, rel=1e-5)


def test_unknown_prediction_type_is_an_error() -> None:
    """A prediction type without a loss is refused."""
    zeros = torch.zeros(1, 1, 1, 1)
    levels = RowLevels.of([Level(-1, 0, 0.5, 0.5)], CPU)
    with pytest.raises(ValueError, match="score"):
        prediction_loss(lambda *_: zeros, zeros, zeros, levels, Condition(zeros), "score")  # type: ignore[arg-type]


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_interpolation_is_the_papers(eta: float, generator: torch.Generator) -> None:
    """0 gives exactly the fitted embedding, 1 the edit text's; the pooled embedding is kept."""
    tokens, optimized = torch.randn(2, 2, 7, 5, generator=generator)
    pooled = torch.randn(2, 5, generator=generator)
    mixed = interpolated(Condition(tokens, pooled), optimized, eta)
    theirs = reference.interpolation(tokens.double().numpy(), optimized.double().numpy(), eta)
    np.testing.assert_allclose(mixed.tokens, theirs, rtol=1e-5, atol=1e-6)
    assert mixed.pooled is pooled
    if eta in (0.0, 1.0):
        assert torch.equal(mixed.tokens, tokens if eta else optimized)


@pytest.mark.parametrize("eta", [-0.1, 1.2])
def test_interpolation_never_extrapolates(eta: float) -> None:
    """A value outside [0, 1] is an error that names the range."""
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        interpolated(Condition(torch.zeros(1, 1, 1)), torch.zeros(1, 1, 1), eta)


def test_minimization_ignores_batch_neighbors(generator: torch.Generator) -> None:
    """A row ends at exactly the same values with neighbors, one of them not finite, as alone."""
    start, goal = torch.randn(2, 3, 6, generator=generator)
    goal[2] = torch.nan

    def minimum(rows: slice) -> Tensor:
        values = start[rows].clone().requires_grad_()
        loss = lambda: (values - goal[rows]).pow(4).mean(dim=1)  # noqa: E731
        minimize([values], loss, steps=20, learning_rate=0.05)
        return values.detach()

    together = minimum(slice(0, 3))
    assert torch.equal(together[0], minimum(slice(0, 1))[0])
    assert torch.equal(together[1], minimum(slice(1, 2))[0])
    assert float((together[:2] - goal[:2]).abs().max()) < float((start - goal)[:2].abs().max())


def test_draws_of_a_fit_depend_on_its_seed_only() -> None:
    """Shares are uniform in their range, noises are normal, the global generator has no effect."""
    torch.manual_seed(1)
    once = list(islice(draw_fit(7, (4, 2, 3, 3), (0.25, 0.5)), 200))
    torch.manual_seed(2)
    again = list(islice(draw_fit(7, (4, 2, 3, 3), (0.25, 0.5)), 200))
    shares = np.array([share for row, _ in once for share in row])
    noises = torch.stack([noise for _, noise in once])
    assert [row for row, _ in once] == [row for row, _ in again]
    assert torch.equal(noises, torch.stack([noise for _, noise in again]))
    assert shares.min() >= 0.25
    assert shares.max() < 0.5
    assert abs(shares.mean() - 0.375) < 0.01
    assert abs(float(noises.mean())) < 0.02
    assert abs(float(noises.std()) - 1.0) < 0.02
