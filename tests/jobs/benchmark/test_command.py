"""The benchmark: equal work for both sides, FLOPs by hand, a report with every figure."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file

from jobs.benchmark import models as benchmark_models
from jobs.benchmark.baseline import DiffusersLoop
from jobs.benchmark.loops import BareLoop, model_flops, stage_flops
from jobs.benchmark.models import SDXL_UNET, VAE, model_folder
from jobs.benchmark.plot import plot_report
from jobs.benchmark.sweep import square_mask
from jobs.benchmark.work import draw_samples, parts_of
from jobs.cli import main
from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.loading import LatentDiffusion, load_model
from tests.parts import make_config
from tests.tiny_models import make_tiny_sdxl


def config_of(folder: Path, **method: object) -> Config:
    config = make_config(**{"mask": {"floor": 0.0}} | method)
    model = config.model.model_copy(update={"path": str(folder), "size": 32})
    return config.model_copy(update={"model": model})


def counted_rows(unet: torch.nn.Module) -> list[int]:
    """Records the rows of every further call of a network."""
    rows: list[int] = []
    unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    return rows


def test_samples_are_deterministic_and_have_distinct_texts() -> None:
    """Each image has four edit texts, none equal to the caption; parts keep images whole."""
    once, again = draw_samples(5, 4, 32), draw_samples(5, 4, 32)
    for sample, same in zip(once, again, strict=True):
        assert (sample.key, sample.edit_texts) == (same.key, same.edit_texts)
        assert (sample.image == same.image).all()
        assert len({sample.caption, *sample.edit_texts}) == 5
    assert [len(part.edits) for part in parts_of(once, 8)] == [8, 8, 4]


def test_the_baseline_needs_200_evaluations_and_overpaint_140(
    tiny_model_folder: Path,
) -> None:
    """At 50 steps, r = 0.8 and 10 noises, for one edit."""
    config = config_of(tiny_model_folder, steps=50)
    samples = draw_samples(1, 1, 32)
    theirs = DiffusersLoop(tiny_model_folder, "cpu", "float32", config.method)
    rows = counted_rows(theirs.pipeline.unet)
    assert theirs.run(samples).edits == 1
    assert sum(rows) == 200
    ours = BareLoop(config, "cpu")
    rows = counted_rows(ours.model.unbatched.network)
    timing = ours.run(samples)
    assert sum(rows) == sum(timing.evals.values()) == 140
    assert timing.counts == {"edited": 1}


def test_the_baseline_runs_with_torchs_default_switches(tiny_model_folder: Path) -> None:
    """Overpaint's switches for equal bytes are off meanwhile, and on again afterwards."""
    loop = BareLoop(config_of(tiny_model_folder), "cpu")
    theirs = DiffusersLoop(tiny_model_folder, "cpu", "float32", loop.config.method)
    seen: list[bool] = []
    theirs.pipeline.unet.register_forward_pre_hook(
        lambda *_: seen.append(torch.are_deterministic_algorithms_enabled())
    )
    theirs.run(draw_samples(1, 1, 32))
    assert not any(seen)
    assert torch.are_deterministic_algorithms_enabled()


def test_flops_are_those_of_the_layers(tiny_model: LatentDiffusion) -> None:
    """The VAE decoder by hand: its convolutions, its attention and its linear layers."""
    vae = tiny_model.image_coder.vae
    total = 0

    def add(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, torch.nn.Conv2d):
            total += 2 * output.numel() * module.weight[0].numel()
        else:
            assert isinstance(module, torch.nn.Linear)
            total += 2 * output.numel() * module.in_features

    hooks = [
        module.register_forward_hook(add)
        for module in vae.modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    ]
    with torch.inference_mode():
        tiny_model.image_coder.decode(torch.zeros(1, 4, 8, 8))
    for hook in hooks:
        hook.remove()
    attention = 2 * 2 * (8 * 8) ** 2 * 16  # two products of 64 x 64 places, 16 channels
    assert model_flops(tiny_model, 32)["vae_decode"] == total + attention


def test_stage_flops_follow_the_evaluations(tiny_model_folder: Path) -> None:
    """Network evaluations, one VAE encode per image, one VAE decode per edited image."""
    timing = BareLoop(config_of(tiny_model_folder), "cpu").run(draw_samples(2, 4, 32))
    flops = {"eval": 1000, "vae_encode": 10, "vae_decode": 1}
    worth = stage_flops(timing, flops, num_images=2)
    assert worth["mask"] == 2 * (10 + 4 * 10) * 1000 + 2 * 10
    assert worth["encode"] == 2 * 4 * 1000
    assert worth["decode"] == 8 * 2 * 4 * 1000 + 8


def test_the_report_has_every_figure(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON with machine, commit, spreads and both ratios, and a PNG next to it."""
    out = tmp_path / "tiny"
    words = f"benchmark --model {tiny_model_folder} --device cpu --threads 1 --edits 4 --whole"
    words += f" --baseline-edits 4 --repeats 2 --out {out} method.steps=2 method.mask.num_noises=1"
    assert main(words.split()) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    assert set(report["ratio"]) == {"one_edit", "four_edits"}
    assert report["machine"]["versions"]["torch"]
    assert report["matrix_flop_per_s"] > 1e8
    for name in ("baseline", "bare", "whole"):
        for workload in report["ratio"]:
            run = report["runs"][f"{name}_{workload}"]
            rate = run["edits_per_s"]
            assert (run["edits"], len(run["seconds"])) == (4, 2)
            assert rate["min"] <= rate["median"] <= rate["max"]
    assert report["runs"]["bare_four_edits"]["stages"]["decode"]["evals"] == 4 * 2 * 2
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "ratio.one_edit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--edits=6", "--edits 6: allowed are multiples of 4"),
        ("--model=random:sd9", "--model random:sd9: allowed are random:sd15, random:sdxl"),
        ("--sweep=time", "--sweep time: allowed are batch, size, steps, edits, region"),
        ("method.stepz=3", "did you mean 'steps'?"),
    ],
)
def test_bad_options_exit_with_2(
    argument: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names what is wrong and what is allowed, before anything is measured."""
    assert main(["benchmark", argument]) == 2
    assert words in capsys.readouterr().err


def test_an_unknown_random_model_is_refused(tmp_path: Path) -> None:
    """The name of a folder is returned as it is; nothing is written."""
    assert model_folder("some/folder", "float32", tmp_path) == "some/folder"
    with pytest.raises(ConfigError, match="allowed are random:sd15"):
        model_folder("random:huge", "float32", tmp_path)
    assert not list(tmp_path.iterdir())


def test_random_models_are_made_in_their_dtype_and_reused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All parts of SDXL are bfloat16; the second call writes nothing."""
    small = {"block_out_channels": (32, 32, 64), "attention_head_dim": 4}
    small |= {"transformer_layers_per_block": 1, "sample_size": 8}
    monkeypatch.setattr("jobs.benchmark.models.SDXL_UNET", SDXL_UNET | small)
    monkeypatch.setattr("jobs.benchmark.models.VAE", VAE | {"block_out_channels": (32,) * 4})
    for name in ("CLIP_LARGE", "OPEN_CLIP_BIG"):
        one_layer = getattr(benchmark_models, name) | {"num_hidden_layers": 1}
        monkeypatch.setattr(f"jobs.benchmark.models.{name}", one_layer)
    folder = model_folder("random:sdxl", "bfloat16", tmp_path)
    assert torch.get_default_dtype() is torch.float32
    settings = Model(path=folder, dtype="bfloat16", size=64)
    model = load_model(settings, "cpu", Stage())
    assert model.info.family == "stable-diffusion-xl"
    weights = load_file(Path(folder) / "unet" / "diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    with torch.inference_mode():
        condition = model.text.encode(["a red circle"])
        eps = model.denoiser(torch.zeros(1, 4, 8, 8), model.schedule.level_at(0.5), condition)
    assert eps.isfinite().all()
    assert eps.std() > 0.0
    monkeypatch.setattr("jobs.benchmark.models.RANDOM", {"random:sdxl": None})
    assert model_folder("random:sdxl", "bfloat16", tmp_path) == folder


@pytest.mark.parametrize(
    ("name", "family"), [("random:sd3", "stable-diffusion-3"), ("random:flux", "flux.1")]
)
def test_random_transformers_predict(
    name: str, family: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Flow models of published architectures, here with few and narrow layers, load and compute."""
    heads = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    narrow: dict[str, dict[str, Any]] = {
        "SD3_TRANSFORMER": heads
        | {"sample_size": 8, "pos_embed_max_size": 16, "caption_projection_dim": 32},
        "FLUX_TRANSFORMER": {"num_single_layers": 1, "axes_dims_rope": (4, 6, 6)}
        | {"joint_attention_dim": 32, **heads},
        "T5": {"d_model": 32, "d_kv": 8, "d_ff": 16, "num_heads": 2},
        "VAE": {"block_out_channels": (32,) * 4},
        "CLIP_LARGE": {"num_hidden_layers": 1},
        "OPEN_CLIP_BIG": {"num_hidden_layers": 1},
    }
    for architecture, small in narrow.items():
        full = getattr(benchmark_models, architecture)
        monkeypatch.setattr(f"jobs.benchmark.models.{architecture}", full | small)
    folder = model_folder(name, "bfloat16", tmp_path, "cpu")
    model = load_model(Model(path=folder, dtype="bfloat16", size=64), "cpu", Stage())
    assert model.info.family == family
    with torch.inference_mode():
        condition = model.text.encode(["a red circle"])
        eps = model.denoiser(torch.zeros(1, 16, 8, 8), model.schedule.level_at(0.5), condition)
    assert eps.isfinite().all()
    assert eps.std() > 0.0


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("SD15_UNET", 0.86),
        ("SDXL_UNET", 2.57),
        ("SD3_TRANSFORMER", 2.03),
        ("FLUX_TRANSFORMER", 11.9),
    ],
)
def test_architectures_have_the_published_number_of_weights(name: str, billions: float) -> None:
    """Counted without making them."""
    kinds = {"UNET": UNet2DConditionModel, "SD3": SD3Transformer2DModel}
    kind = next((kinds[word] for word in kinds if word in name), FluxTransformer2DModel)
    with torch.device("meta"):
        network = kind(**getattr(benchmark_models, name))
    count = sum(weight.numel() for weight in network.parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_family_without_baseline_is_measured_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """diffusers has no DiffEdit for SDXL: there is no ratio, and a line says why."""
    folder, out = make_tiny_sdxl(tmp_path / "model"), tmp_path / "xl"
    words = f"benchmark --model {folder} --device cpu --threads 1 --edits 4 --repeats 1 --out {out}"
    assert main([*words.split(), "method.steps=2", "method.mask.num_noises=1"]) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    assert (list(report["runs"]), report["ratio"]) == (["bare_one_edit", "bare_four_edits"], {})
    assert "no baseline: diffusers' DiffEdit does not support" in capsys.readouterr().out


@pytest.mark.parametrize(("more", "dtype"), [("", "bfloat16"), ("float32", "float32")])
def test_the_baselines_dtype_defaults_to_the_networks(
    more: str, dtype: str, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """``--baseline-dtype`` overrides it."""
    words = f"benchmark --model {tiny_model_folder} --device cpu --dtype bfloat16 --edits 4"
    words += f" --baseline-edits 4 --repeats 1 --threads 1 --out {tmp_path}/tiny method.steps=2"
    if more:
        words += f" --baseline-dtype {more}"
    with mock.patch("jobs.benchmark.command.DiffusersLoop", wraps=DiffusersLoop) as loop:
        assert main(words.split()) == 0
    assert loop.call_args.args[2] == dtype
    report = json.loads((tmp_path / "tiny.json").read_text())
    assert report["options"]["baseline_dtype"] == (more or None)


def test_finished_runs_are_in_the_report_after_an_error_or_a_time_limit(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that would end after the time limit is left out."""
    out = tmp_path / "tiny"
    words = f"benchmark --model {tiny_model_folder} --device cpu --threads 1 --edits 4 --repeats 2"
    words += f" --out {out} --whole method.steps=2 method.mask.num_noises=1"
    assert main([*words.split(), "--time-limit", "0"]) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["runs"] == {}
    assert len(report["unfinished"]) == 2 * 6

    def broken(*_: object) -> None:
        raise RuntimeError("the whole loop broke")

    monkeypatch.setattr("jobs.benchmark.command.run_whole", broken)
    with pytest.raises(RuntimeError, match="whole loop broke"):
        main(words.split())
    report = json.loads(out.with_suffix(".json").read_text())
    assert set(report["ratio"]) == {"one_edit", "four_edits"}
    assert "unfinished" not in report


def test_flops_of_a_compiled_network_are_counted_without_compilation(
    tiny_model: LatentDiffusion,
) -> None:
    """Afterwards the network is compiled as before."""
    network = tiny_model.unbatched.network
    plain = model_flops(tiny_model, 32)

    def fused(*_: object, **__: object) -> None:
        raise AssertionError("the compiled network was called")

    network._compiled_call_impl = fused
    try:
        assert model_flops(tiny_model, 32) == plain
        assert network._compiled_call_impl is fused
    finally:
        network._compiled_call_impl = None


def test_without_matplotlib_there_is_no_plot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line says how to install it; the JSON is still written."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert not plot_report({}, tmp_path / "x.png")
    assert "overpaint[train]" in capsys.readouterr().out


def test_sweeps_have_every_point(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Cost by edits per image and by mask area, for a full decode and a box."""
    out = tmp_path / "curves"
    words = f"benchmark --model {tiny_model_folder} --device cpu --threads 1 --edits 8 --repeats 1"
    words += f" --sweep edits --sweep region --out {out} method.steps=2 method.mask.num_noises=1"
    assert main([*words.split(), "method.decode.context=0", "method.decode.multiple=2"]) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    points = {(row["sweep"], row["series"], row["x"]): row for row in report["points"]}
    assert {key[2] for key in points if key[0] == "edits"} == {1, 2, 4, 8}
    assert {key[1:] for key in points if key[0] == "region"} == {
        (series, area) for series in ("full", "box") for area in (0.1, 0.2, 0.5)
    }
    assert all(row["s_per_edit"] > 0 and row["edits"] == 8 for row in points.values())
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_square_masks_cover_their_share() -> None:
    """They are centered, and exact to within a row of pixels."""
    for area in (0.1, 0.2, 0.5):
        mask = square_mask(area, 512)
        assert abs((mask > 0).mean() - area) < 0.003
        assert (mask[256, 256], mask[0, 0]) == (255, 0)
