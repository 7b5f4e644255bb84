"""Compiled networks, padded micro-batches and memory formats give the same results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.config import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.schedule import Level
from pipeline.models.compiled import CACHE_VARIABLE, compile_network, private_folder
from pipeline.models.device import memory_format_for
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.network import in_micro_batches
from pipeline.plan.fingerprint import fingerprint_inputs
from tests.parts import make_config

LEVEL = Level(20, 381, 0.6, 0.8)


@pytest.mark.parametrize("num_rows", [1, 3, 5, 8, 11, 16, 17])
def test_padding_does_not_change_any_row(num_rows: int) -> None:
    """The last micro-batch is padded to a power of two; every row gets its own result."""
    calls: list[int] = []

    def network(latent: Tensor, level: Level, condition: Condition) -> Tensor:
        calls.append(len(latent))
        return latent * condition.tokens[:, :1, :1, None]

    latent = torch.arange(num_rows, dtype=torch.float32).view(-1, 1, 1, 1) + 1.0
    condition = Condition(torch.arange(num_rows, dtype=torch.float32).view(-1, 1, 1) + 10.0)
    eps = in_micro_batches(network, MicroBatch(8, static=True))(latent, LEVEL, condition)
    assert eps.flatten().tolist() == [(n + 1.0) * (n + 10.0) for n in range(num_rows)]
    assert set(calls) <= {1, 2, 4, 8}
    assert len(calls) == -(-num_rows // 8)


def test_padding_never_exceeds_the_micro_batch() -> None:
    """Padding stops at the micro-batch size, and happens only for static shapes."""
    assert [MicroBatch(6, static=True).padded(n) for n in (1, 3, 5, 6)] == [1, 4, 6, 6]
    assert MicroBatch(6).padded(5) == 5


def test_the_folder_of_compiled_code_is_the_users_alone(tmp_path: Path) -> None:
    """It is made with mode 0700, and an own folder that others can read is closed to them."""
    (tmp_path / "read").mkdir(mode=0o755)
    for name in ("new/deep", "read"):
        folder = private_folder(str(tmp_path / name))
        assert folder == str(tmp_path / name)
        assert os.stat(folder).st_mode & 0o777 == 0o700


def test_a_folder_that_others_could_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch executes what is in it. Its own default, a name in /tmp, is checked alike."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match=r"model\.compile_cache='.*shared'.*mode 777"):
        compile_network(nn.Linear(1, 1), Model(compile="default", compile_cache=str(folder)))
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    with pytest.raises(PermissionError, match=r"model\.compile_cache=None: the folder .*shared"):
        compile_network(nn.Linear(1, 1), Model(compile="default"))
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 12345)  # as if another user had made it
    with pytest.raises(PermissionError, match=r"torchinductor_.* belongs to user \d+"):
        private_folder(None)


def test_every_listed_size_is_compiled_at_the_start(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a whole micro-batch each, height first; the limit of shapes grows with the list."""
    shapes: list[tuple[int, ...]] = []

    def recorded(denoiser: object, text: object, level: object, shape: Any, device: str) -> None:
        shapes.append(shape)

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr("pipeline.models.loading.warm_up", recorded)
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)
    sizes = [(32, 32), (64, 16)]
    model = Model(path=str(tiny_model_folder), compile="default", buckets=sizes)
    load_model(model, "cpu", Stage(micro_batch=3))
    assert shapes == [(3, 4, 8, 8), (3, 4, 4, 16)]
    assert torch._dynamo.config.recompile_limit == 2 * 64


def test_denoiser_returns_a_copy_of_the_output(tiny_model: LatentDiffusion) -> None:
    """Overwriting the network's output, as CUDA graphs do, does not change an earlier result."""
    network = tiny_model.unbatched.network
    seen: list[Tensor] = []
    hook = network.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    with torch.inference_mode():
        text = tiny_model.text.encode(["a dog"])
        eps = tiny_model.unbatched(torch.zeros(1, 4, 8, 8), LEVEL, text)
        before = eps.clone()
        seen[0].zero_()
    hook.remove()
    assert torch.equal(eps, before)


def test_half_precision_on_a_cpu_is_contiguous() -> None:
    """The format is channels last, except uncompiled in half precision on a CPU."""
    assert memory_format_for("cpu", torch.float32, compiled=False) is torch.channels_last
    assert memory_format_for("cpu", torch.bfloat16, compiled=False) is torch.contiguous_format
    assert memory_format_for("cpu", torch.bfloat16, compiled=True) is torch.channels_last
    assert memory_format_for("cuda", torch.bfloat16, compiled=False) is torch.channels_last


def test_modes_and_cache_reach_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """off does not compile; default and cuda_graphs compile static shapes; the cache is set."""
    calls: list[dict] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: calls.append(options))
    monkeypatch.setenv(CACHE_VARIABLE, "before")
    for mode in ("off", "default", "cuda_graphs"):
        compile_network(nn.Linear(1, 1), Model(compile=mode, compile_cache=str(tmp_path)))
    assert calls == [
        {"dynamic": False, "mode": None},
        {"dynamic": False, "mode": "reduce-overhead"},
    ]
    assert os.environ[CACHE_VARIABLE] == str(tmp_path)


def test_compiling_is_in_the_fingerprint_and_its_cache_is_not() -> None:
    """Fused kernels round differently, but the cache's location changes no byte."""

    def inputs(**model: str) -> dict:
        config = make_config()
        changed = config.model.model_copy(update=model)
        return fingerprint_inputs(config.model_copy(update={"model": changed}), "revision", "cpu")

    assert inputs(compile="default") != inputs()
    assert inputs(compile_cache="somewhere") == inputs()


class Small(nn.Module):
    """A layer, an activation and a norm: what the compiler fuses."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, rows: Tensor) -> Tensor:
        return self.norm(nn.functional.silu(self.linear(rows)))


@pytest.mark.slow
def test_a_compiled_layer_equals_the_uncompiled_one(
    tolerance: dict, tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short form of the next test: a layer instead of a model."""
    monkeypatch.setenv(CACHE_VARIABLE, "before")
    network, rows = Small(), torch.randn(4, 8, generator=generator)
    with torch.inference_mode():
        plain = network(rows)
        compile_network(network, Model(compile="default", compile_cache=str(tmp_path)))
        error = float((network(rows) - plain).abs().max() / plain.abs().max())
    assert error < 10 * tolerance[torch.float32]
    assert any(tmp_path.rglob("*.cpp")), "compiled code is kept where the config says"


@pytest.mark.sweep
def test_compiled_network_equals_the_uncompiled_one(
    tiny_model: LatentDiffusion, tiny_model_folder: Path, tolerance: dict, tmp_path: Path
) -> None:
    """Three rows, padded to a micro-batch of four, at two timesteps give the same eps."""
    settings = Model(
        path=str(tiny_model_folder), compile="default", compile_cache=str(tmp_path), size=32
    )
    compiled = load_model(settings, "cpu", Stage(micro_batch=4))
    latent = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        text = tiny_model.text.encode(["a dog", "a cat", ""])
        for level in (LEVEL, Level(1, 1, 0.99, 0.14)):
            plain, fused = (m.denoiser(latent, level, text) for m in (tiny_model, compiled))
            error = float((plain - fused).abs().max() / plain.abs().max())
            assert error < 10 * tolerance[torch.float32]
    assert any(tmp_path.rglob("*.cpp")), "compiled code is in the configured cache"
