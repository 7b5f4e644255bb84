"""A network call makes the host wait for nothing: no copy from main memory, no value read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.row_levels import RowLevels
from pipeline.models import counted_memory
from pipeline.models.families import family_named
from pipeline.models.loading import load_model
from pipeline.models.probe import probe_model
from pipeline.stages.build import load_stages
from tests.models.family_cases import CASES
from tests.parts import make_config, make_part, make_prepared
from tests.tiny_models import make_tiny_sd3, make_tiny_sdxl, make_tiny_stable_diffusion

MAKERS: dict[str, Callable[[Path], Path]] = {
    **{name: case.make for name, case in CASES.items()},
    "sd": make_tiny_stable_diffusion,
    "sdxl": make_tiny_sdxl,
    "sd3": make_tiny_sd3,
}


class Waits(TorchDispatchMode):
    """Collects the kinds of operations that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        before, after = _devices((args, kwargs)), _devices(made)
        if "cpu" in before and "meta" in after:
            self.found.add("copied")
        if "meta" in before and after != {"meta"}:
            self.found.add("read")
        masks = [one for one in tree_leaves(args[1:]) if isinstance(one, Tensor)]
        if "index" in func.name() and any(one.dtype == torch.bool for one in masks):
            self.found.add("selected")
        return made


def _devices(tree: Any) -> set[str]:
    return {one.device.type for one in tree_leaves(tree) if isinstance(one, Tensor)}


class OntoDevices(TorchFunctionMode):
    """Counts tensors that are made of Python's numbers on a device: each is a copy that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.tensor, torch.as_tensor) and (kwargs or {}).get("device") is not None:
            self.count += 1
        return func(*args, **(kwargs or {}))


def with_tables(network: nn.Module) -> nn.Module:
    """The network with its tables in main memory, where loading leaves what is no buffer."""
    for module in network.modules():
        for name, value in vars(module).items():
            tables = value if isinstance(value, list) else [value]
            if tables and all(isinstance(one, Tensor) for one in tables):
                there = [torch.zeros_like(one, device="cpu") for one in tables]
                setattr(module, name, there if isinstance(value, list) else there[0])
    return network


@pytest.mark.parametrize("name", MAKERS)
def test_a_network_call_copies_nothing_from_main_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted on tensors without data, as ``overpaint plan`` counts memory, for every family."""
    model = Model(path=str(MAKERS[name](tmp_path / "model")), size=32, dtype="float32")
    found: list[set[str]] = []
    family = family_named(probe_model(model, hash_files=False).family)
    ask, empty = type(family).ask, counted_memory.empty_network

    def watched(*arguments: Any) -> Any:
        with OntoDevices() as made, Waits() as waits:
            answer = ask(*arguments)
        found.append(waits.found | ({"copied"} if made.count else set()))
        return answer

    monkeypatch.setattr(type(family), "ask", watched)
    monkeypatch.setattr(counted_memory, "empty_network", lambda *given: with_tables(empty(*given)))
    counted_memory.count_memory(probe_model(model, hash_files=False), model)
    assert found[1] == set()  # the first call makes tables


@pytest.mark.parametrize("method", ["diffedit", "sdedit"])
def test_stages_make_no_tensors_of_numbers_on_the_device(
    method: str, tiny_model_folder: Path
) -> None:
    """They upload them through pinned memory; on a CPU the same calls are made."""
    config = make_config(name=method)
    config = config.model_copy(update={"model": Model(path=str(tiny_model_folder))})
    stages = load_stages(config, "fused", "cpu")
    part = make_part(make_prepared(0, "a cat", "a red dog"))
    with OntoDevices() as made:
        for stage in stages.values():
            part = stage(part)
    assert all(edit.image is not None for edit in part.edits)
    assert made.count == 0


def test_levels_of_rows_are_those_of_the_schedule(tiny_model_folder: Path) -> None:
    """In the order given, with the shapes that broadcast over latents."""
    model = load_model(Model(path=str(tiny_model_folder)), "cpu", Stage())
    levels = [model.schedule.level_at(share) for share in (0.2, 0.9, 0.5)]
    rows = RowLevels.of(levels, torch.device("cpu"))
    for number, level in enumerate(levels):
        assert float(rows.timestep[number]) == pytest.approx(level.timestep)
        assert float(rows.alpha[number]) == pytest.approx(level.alpha)
        assert float(rows.sigma[number]) == pytest.approx(level.sigma)
    assert (rows.timestep.shape, rows.alpha.shape) == ((3,), (3, 1, 1, 1))


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_on_a_gpu_no_network_call_waits(name: str, tmp_path: Path) -> None:
    """torch itself raises where a call would wait."""
    model = load_model(
        Model(path=str(MAKERS[name](tmp_path / "model")), size=32), "cuda", Stage(micro_batch=2)
    )
    cells = 32 // model.info.latent_scale
    latent = torch.zeros(4, model.info.latent_channels, cells, cells, device="cuda")
    level = model.schedule.level_at(0.5)
    with torch.inference_mode():
        condition = model.text.encode(["a cat"] * 4)
        model.denoiser(latent, level, condition)  # kernels are loaded, tables are made
        torch.cuda.set_sync_debug_mode("error")
        try:
            model.denoiser(latent, level, condition)
        finally:
            torch.cuda.set_sync_debug_mode("default")
