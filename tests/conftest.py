"""Shared fixtures, and the table of tolerances."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Set before torch and the hub client are imported, so that no test uses the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Ray's workers have a niceness of 15 by default: they would starve beside a test that computes.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # one process less a run

import pytest
import torch

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

    from pipeline.models.loading import LatentDiffusion

# The tests' tensors are small, so a second thread gains little. On a busy CPU it even costs time:
# the first thread spins at each small operation until the second is scheduled again.
torch.set_num_threads(1)

# Largest relative difference between two ways of computing the same thing, by dtype.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first, so that no process waits for one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """With ``-n`` the tests of a file run in one process."""
    from tests.scheduling import FilesTogether

    return FilesTogether(config, log)


@pytest.fixture(scope="session", autouse=True)
def without_bfloat16() -> Iterator[None]:
    """``model.dtype: auto`` is float32 in a test's process, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.models.precision.computes_bfloat16", lambda device: False)
        yield


@pytest.fixture(scope="session")
def tolerance() -> dict[torch.dtype, float]:
    """The allowed relative error, by dtype."""
    return TOLERANCE


@pytest.fixture
def generator() -> torch.Generator:
    """A generator on the CPU with a fixed seed, for the inputs of a test."""
    return torch.Generator("cpu").manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion folder with small random weights: 32 x 32 images, 8 x 8 latents."""
    from tests.tiny_models import make_tiny_stable_diffusion

    return make_tiny_stable_diffusion(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder: Path) -> LatentDiffusion:
    """The small random model, loaded on the CPU in float32."""
    from pipeline.config.model import Model
    from pipeline.config.stages import Stage
    from pipeline.models.loading import load_model

    return load_model(Model(path=str(tiny_model_folder)), "cpu", Stage())


@pytest.fixture(scope="session", params=["sdxl", "sd3", "sd3 without T5"])
def family_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each family besides Stable Diffusion 1 and 2, with small random weights."""
    from tests.tiny_models import make_tiny_sd3, make_tiny_sdxl

    folder = tmp_path_factory.mktemp("families") / "model"
    if request.param == "sdxl":
        return make_tiny_sdxl(folder)
    return make_tiny_sd3(folder, t5=request.param == "sd3")


@pytest.fixture(scope="session")
def family_model(family_folder: Path) -> LatentDiffusion:
    """The model in ``family_folder``, loaded on the CPU in float32."""
    from pipeline.config.model import Model
    from pipeline.config.stages import Stage
    from pipeline.models.loading import load_model

    return load_model(Model(path=str(family_folder)), "cpu", Stage())
