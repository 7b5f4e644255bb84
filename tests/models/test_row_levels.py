"""A network called with a different level for each row, as in fitting."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.row_levels import RowLevels
from pipeline.diffusion.schedule import Level
from pipeline.models.loading import load_model
from tests.tiny_models import make_tiny_stable_diffusion


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_rows_at_different_levels_equal_separate_calls(
    tmp_path: Path, prediction_type: str, generator: torch.Generator, tolerance: dict
) -> None:
    """One call at three levels equals three calls, down to an exactly clean level."""
    folder = make_tiny_stable_diffusion(tmp_path / "model", prediction_type)
    model = load_model(Model(path=str(folder)), "cpu", Stage())
    levels = [Level(0, 0, 1.0, 0.0)]  # perfectly clean: no sigma to divide by
    levels += [model.schedule.level_at(share) for share in (0.3, 1.0)]
    latent = torch.randn(3, 4, 8, 8, generator=generator)
    with torch.no_grad():
        text = model.text.encode(["a cat", "a dog", "a red dog"])
        together = model.unbatched(latent, RowLevels.of(levels, model.device), text)
        for row, level in enumerate(levels):
            one = torch.tensor([row])
            alone = model.unbatched(latent[one], level, text[one])
            error = (together[one] - alone).abs().max() / alone.abs().max()
            assert float(error) < tolerance[torch.float32]
