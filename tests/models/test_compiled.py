"""Compiled networks, padded micro-batches and memory formats give the same results."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.load import parse_config
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.schedule import Level
from pipeline.models.compiled import CACHE_VARIABLE, compile_network, private_folder
from pipeline.models.device import memory_format_for
from pipeline.models.loading import LatentDiffusion, load_model, warm_up
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.network import in_micro_batches
from pipeline.plan.fingerprint import fingerprint_inputs
from pipeline.process.compilations import num_compilations
from pipeline.stages.build import load_stages
from tests.parts import make_config, make_part, make_prepared

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


def test_every_shape_of_a_part_is_compiled_at_the_start(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each listed size, height first, with each number of rows; the limit grows with the list."""
    shapes: list[tuple[int, ...]] = []

    def ask(family: object, network: object, sample: Tensor, *rest: object) -> Tensor:
        shapes.append(tuple(sample.shape))
        return sample

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr("pipeline.models.unet_family.UNetFamily.ask", ask)
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)
    sizes = [(32, 32), (64, 16)]
    model = Model(path=str(tiny_model_folder), compile="default", buckets=sizes)
    load_model(model, "cpu", Stage(micro_batch=3))
    assert shapes == [(n, 4, h, w) for h, w in ((8, 8), (4, 16)) for n in (3, 2, 1)]
    assert torch._dynamo.config.recompile_limit == 2 * 64


def test_the_stages_of_an_actor_warm_up_for_each_micro_batch(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages of layout fused may have sizes of their own; a shape is called once."""
    calls: list[int] = []

    def ask(family: object, network: object, sample: Tensor, *rest: object) -> Tensor:
        calls.append(len(sample))
        return sample

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr("pipeline.models.unet_family.UNetFamily.ask", ask)
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)
    tree = make_config().model_dump()
    tree["model"] = {"path": str(tiny_model_folder), "compile": "default", "device": "cpu"}
    for name, size in (("mask", 6), ("encode", 2), ("decode", 5)):
        tree["stages"][name]["micro_batch"] = size
    load_stages(parse_config(tree), "fused", "cpu")
    assert calls == [6, 4, 2, 1, 5]


@pytest.mark.parametrize("size", [4, 6])
def test_no_number_of_rows_compiles_after_the_warm_up(size: int) -> None:
    """A compiled network of one layer meets every remainder, and a doubled batch of guidance."""
    network = Small()

    def ask(latent: Tensor, level: Level, condition: Condition) -> Tensor:
        return network(latent.flatten(1)).view_as(latent)

    def with_micro_batch(size: int) -> Any:
        micro_batch = MicroBatch(size, static=True)
        return SimpleNamespace(
            denoiser=in_micro_batches(ask, micro_batch), micro_batch=micro_batch, text=text
        )

    text = SimpleNamespace(encode=lambda texts: Condition(torch.zeros(len(texts), 1, 1)))
    model: Any = SimpleNamespace(
        schedule=SimpleNamespace(level_at=lambda share: LEVEL),
        info=SimpleNamespace(latent_channels=2),
        device="cpu",
        with_micro_batch=with_micro_batch,
    )
    torch._dynamo.reset()
    network.compile(dynamic=False, backend="eager")  # guards as with any backend, in no time
    warm_up(model, [size], [(2, 2)])
    compiled = num_compilations()
    assert compiled >= len(with_micro_batch(size).micro_batch.row_counts)
    with torch.inference_mode():
        for num_rows in range(1, 4 * size):
            condition = Condition(torch.zeros(num_rows, 1, 1))
            with_micro_batch(size).denoiser(torch.zeros(num_rows, 2, 2, 2), LEVEL, condition)
    assert num_compilations() == compiled


@pytest.mark.sweep
def test_a_part_compiles_nothing_after_the_start(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages over five images with two edits each, with guidance, in micro-batches of four."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    real = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: real(self, backend="eager", dynamic=False)
    )
    tree = make_config().model_dump()
    tree["model"] = {"path": str(tiny_model_folder), "compile": "default", "size": 32}
    for name in ("mask", "encode", "decode"):
        tree["stages"][name]["micro_batch"] = 4
    torch._dynamo.reset()
    stages = load_stages(parse_config(tree), "fused", "cpu")
    compiled = num_compilations()
    assert compiled >= 3
    part = make_part(*(make_prepared(number, "a cat", "a red dog") for number in range(5)))
    for stage in stages.values():
        part = stage(part)
    assert [edit.error for edit in part.edits] == [None] * 10
    assert num_compilations() == compiled


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
