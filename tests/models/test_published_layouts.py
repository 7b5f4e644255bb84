"""Published layouts load whole, and compute what the family's own pipeline computes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, EulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.ddim import ddim
from pipeline.diffusion.guidance import guided
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.models.probe import probe_model
from tests.published_layouts import GARBAGE, LAYOUTS, OLD_NAMES, make_layout
from tests.tiny_models import load_pipeline

RELATIVE = 1e-4


def stored_tensors(folder: Path, component: str, files: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors in the chosen files of a component, under today's names."""
    tensors: dict[str, Tensor] = {}
    for name in files:
        if name.startswith(f"{component}/") and name.endswith(".safetensors"):
            tensors |= load_file(folder / name)
    renamed = {}
    for name, tensor in tensors.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(f"attentions.0.{old}.", f"attentions.0.{new}.")
        if not name.endswith("position_ids"):
            renamed[name] = tensor
    return renamed


def check_every_tensor_is_loaded(model: LatentDiffusion) -> None:
    networks: dict[str, Any] = {
        model.info.components[0]: model.unbatched.network,
        "vae": model.image_coder.vae,
        **{tower.name: tower.encoder for tower in model.text.towers},
    }
    assert set(networks) == set(model.info.variants)
    for component, network in networks.items():
        stored = stored_tensors(model.info.folder, component, model.info.files)
        loaded = network.state_dict()
        assert stored
        assert stored.keys() <= loaded.keys()
        for name, tensor in stored.items():
            assert torch.equal(loaded[name], tensor.to(loaded[name].dtype)), name


def theirs_of(folder: Path, model: LatentDiffusion) -> Any:
    """The family's pipeline in float32, without the parts that Overpaint does not load."""
    index = json.loads((folder / "model_index.json").read_text())
    index |= {name: [None, None] for name in ("safety_checker", "feature_extractor")}
    (folder / "model_index.json").write_text(json.dumps(index))
    variant = model.info.variants["vae"]

    class Kind:
        @staticmethod
        def from_pretrained(path: Path, **absent: Any) -> Any:
            options: dict[str, Any] = {"variant": variant, "use_safetensors": True}
            return DiffusionPipeline.from_pretrained(path, **(options | absent))

    return load_pipeline(Kind, folder)


def check_texts(model: LatentDiffusion, pipeline: Any, text: str) -> None:
    """The embeddings of a text and of the default negative text are equal, bit for bit."""
    others: dict[str, Any] = {"prompt_2": None} if len(model.text.towers) > 1 else {}
    if hasattr(pipeline, "transformer"):
        others["prompt_3"] = None
    else:
        others |= {"device": "cpu", "num_images_per_prompt": 1}
    with torch.inference_mode():
        found = pipeline.encode_prompt(text, do_classifier_free_guidance=True, **others)
        ours, empty = model.text.encode([text]), model.text.encode([""])
    assert torch.equal(ours.tokens, found[0])
    assert torch.equal(empty.tokens, found[1])
    if ours.pooled is not None:
        assert empty.pooled is not None
        assert torch.equal(ours.pooled, found[2])
        assert torch.equal(empty.pooled, found[3])


def check_guided_decode(model: LatentDiffusion, pipeline: Any, text: str, scale: float) -> None:
    """From the same noise, text to image with guidance gives the same latent."""
    steps, share = 10, 1.0
    if model.info.prediction_type == "flow":
        # from pure noise the first step is the least exact in float32: more steps, a shorter one
        steps, share = 50, model.schedule.levels(50)[-1].sigma
    elif pipeline.scheduler.config.timestep_spacing == "linspace":
        # DDIM of diffusers steps to other timesteps than it visits; Euler's are whole with 10
        pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
        share = model.schedule.levels(steps)[-1].sigma
    else:
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    shape = (1, model.info.latent_channels, 8, 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def theirs(scale: float) -> Tensor:
        return pipeline(
            text,
            height=32,
            width=32,
            latents=noise,
            num_inference_steps=steps,
            guidance_scale=scale,
            output_type="latent",
        ).images

    condition, empty = model.text.encode([text]), model.text.encode([""])
    with torch.inference_mode():
        denoise = guided(model.denoiser, condition, empty, torch.tensor([scale]))
        ours = ddim(denoise, share * noise, model.schedule.levels(steps)[::-1])
    wanted = theirs(scale)
    assert float((ours - wanted).abs().max() / wanted.abs().max()) <= RELATIVE
    assert not torch.allclose(theirs(1.0), wanted, rtol=1e-2)  # so that guidance is compared


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_is_loaded_as_its_own_pipeline_loads_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    layout: str,
) -> None:
    """Every tensor of the chosen files; embeddings bit for bit; a guided decode to 1e-4."""
    folder = make_layout(layout, tmp_path / "model")
    # on a CPU other kernels compute the same to the last bits; here the layout is compared
    monkeypatch.setattr("pipeline.models.components.use_onednn", lambda network: None)
    capsys.readouterr()
    with caplog.at_level(logging.INFO, "pipeline.models"):
        model = load_model(Model(path=str(folder)), "cpu", Stage())
    assert "are not used" not in caplog.text
    assert "Loading" not in capsys.readouterr().err  # a bar for each sharded network
    beside = [path for path in folder.rglob("*") if path.is_file()]
    beside = [path for path in beside if path.read_bytes() == GARBAGE]
    assert not {path.relative_to(folder).as_posix() for path in beside} & set(model.info.files)
    check_every_tensor_is_loaded(model)
    pipeline = theirs_of(folder, model)
    check_texts(model, pipeline, "a red dog on the circle")
    check_guided_decode(model, pipeline, "a red dog", 5.0)


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_is_loaded_in_half_precision(
    tmp_path: Path, layout: str, dtype: Any
) -> None:
    """From the plain files, and from fp16 files once there are any; whole ones, in both dtypes."""
    folder = make_layout(layout, tmp_path / "model")
    if "only" not in layout:
        for path in folder.glob("*/*fp16*"):
            path.unlink()
    model = load_model(Model(path=str(folder), dtype=dtype), "cpu", Stage())
    check_every_tensor_is_loaded(model)
    for name in model.info.files:
        path = folder / name
        if path.suffix == ".safetensors" and "-of-" not in name and "fp16" not in name:
            rounded = {key: (1.0625 * value).half() for key, value in load_file(path).items()}
            save_file(rounded, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    model = load_model(Model(path=str(folder), dtype=dtype), "cpu", Stage())
    assert "fp16" in model.info.variants.values()
    check_every_tensor_is_loaded(model)
    condition = model.text.encode(["a cat"])
    latent = torch.randn(1, model.info.latent_channels, 8, 8)
    eps = model.denoiser(latent, model.schedule.level_at(0.5), condition)
    assert eps.isfinite().all()


def test_the_revision_is_of_what_is_loaded(tmp_path: Path) -> None:
    """Deleting the files that lie beside changes nothing; each that is loaded counts."""
    folder = make_layout("SD 1.5", tmp_path / "model")
    info = probe_model(Model(path=str(folder)))
    for path in list(folder.rglob("*")):
        if path.is_file() and path.read_bytes() == GARBAGE:
            path.unlink()
    assert probe_model(Model(path=str(folder))).revision == info.revision
    for name in info.files:
        path = folder / name
        content = path.read_bytes()
        if path.suffix == ".safetensors":  # one bit of the last tensor
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        elif path.suffix == ".json":
            path.write_bytes(content + b"\n")
        else:
            path.write_bytes(content + b"a b\n")
        assert probe_model(Model(path=str(folder))).revision != info.revision, name
        path.write_bytes(content)


def test_an_upcast_vae_is_what_the_config_says(tmp_path: Path) -> None:
    """SDXL with the fixed VAE stays in float16; without the fix it is upcast."""
    folder = make_layout("SDXL, fp16 only", tmp_path / "model")
    load = Model(path=str(folder), dtype="float16")
    assert load_model(load, "cpu", Stage()).image_coder.vae.dtype == torch.float32
    config = folder / "vae/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": False}))
    assert load_model(load, "cpu", Stage()).image_coder.vae.dtype == torch.float16
