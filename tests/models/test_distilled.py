"""Distilled models and unsuitable sizes are named before a run, with the settings that suit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.config import Config
from pipeline.models.distilled import distilled_kind
from pipeline.models.probe import probe_model
from pipeline.models.suitability import suitability_warnings
from pipeline.plan.plan import make_plan
from tests.samples import raw_sample, write_shard
from tests.tiny_models import make_tiny_stable_diffusion

LEADING: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}
TRAILING: dict[str, Any] = LEADING | {"timestep_spacing": "trailing"}


def config_of(folder: Path, size: int | None = None, **method: Any) -> Config:
    tree: dict[str, Any] = {"input": {"shards": "x"}, "output": {"path": "y"}}
    model = {"path": str(folder), "size": size}
    return Config.model_validate(tree | {"model": model, "method": method})


@pytest.mark.parametrize(
    ("name", "scheduler", "kind"),
    [
        ("stabilityai/sd-turbo", TRAILING, "turbo"),
        ("stabilityai/sdxl-turbo", LEADING, "turbo"),
        ("stabilityai/stable-diffusion-3.5-large-turbo", {}, "turbo"),
        ("/models/dreamshaper-xl-v2-Turbo/", LEADING, "turbo"),
        ("Lykon/dreamshaper-xl-lightning", LEADING, "lightning"),
        ("owner/Hyper-SDXL-1step", LEADING, "hyper"),
        ("SimianLuo/LCM_Dreamshaper_v7", LEADING, "lcm"),
        ("tianweiy/DMD2", LEADING, "dmd"),
        ("owner/name", TRAILING, "turbo"),
        ("owner/name", LEADING | {"_class_name": "LCMScheduler"}, "lcm"),
        ("stabilityai/stable-diffusion-xl-base-1.0", LEADING, None),
        ("owner/hyperrealistic", LEADING, None),
        ("turbo/name", LEADING, None),
        ("owner/calcml", LEADING, None),
        ("owner/zero-snr", TRAILING | {"rescale_betas_zero_snr": True}, None),
        ("owner/v", TRAILING | {"prediction_type": "v_prediction"}, None),
        ("owner/ddim", TRAILING | {"_class_name": "DDIMScheduler"}, None),
    ],
)
def test_distilled_models_are_recognised(name: str, scheduler: dict, kind: str | None) -> None:
    """By a word in the name, or by an Euler sampler with trailing timesteps."""
    found = distilled_kind([name], scheduler)
    assert (found.kind if found else None) == kind


def test_the_warning_names_what_suits_and_what_was_asked(tmp_path: Path) -> None:
    """Guidance 7.5 and 50 steps pass, with a line; the model's own settings give none."""
    folder = make_tiny_stable_diffusion(tmp_path / "sd-turbo")
    info = probe_model(config_of(folder).model)
    (line,) = suitability_warnings(info, config_of(folder))
    assert line.startswith(f"model.path='{folder}': a distilled model (turbo: it is called")
    for word in (
        *("at most 8 steps", "little or no guidance (1 to 2)", "no inversion"),
        *("method.steps=50", "method.guidance_scale=7.5", "method.encode=ddim"),
    ):
        assert word in line
    suited = config_of(folder, name="sdedit", steps=4, guidance_scale=1.0)
    assert suitability_warnings(info, suited) == []


def test_the_name_that_the_configs_keep_counts(tmp_path: Path) -> None:
    """A copy of SDXL-Turbo in a folder of another name."""
    folder = make_tiny_stable_diffusion(tmp_path / "model")
    config = folder / "unet/config.json"
    tree = json.loads(config.read_text()) | {"_name_or_path": "stabilityai/sdxl-turbo"}
    config.write_text(json.dumps(tree))
    found = probe_model(config_of(folder).model).distilled
    assert found is not None
    assert found.reason == "it is called stabilityai/sdxl-turbo"


def test_a_listed_size_far_from_the_models_own_is_named(tiny_model_folder: Path) -> None:
    """By its area: 128 x 64 is as many pixels as a square of 90."""
    config = config_of(tiny_model_folder)
    listed = config.model.model_copy(update={"buckets": [(48, 24), (128, 64)]})
    info = probe_model(config.model)
    (line,) = suitability_warnings(info, config.model_copy(update={"model": listed}))
    assert "model.buckets: [128, 64]: the model was made for 32 pixels" in line
    assert line.endswith("repeats objects at 91")


@pytest.mark.parametrize(("size", "words"), [(64, "repeats objects"), (16, "loses detail")])
def test_a_size_far_from_the_models_own_is_warned_of(
    tiny_model_folder: Path, size: int, words: str
) -> None:
    """The tiny model was made for 32 pixels."""
    info = probe_model(config_of(tiny_model_folder).model)
    (line,) = suitability_warnings(info, config_of(tiny_model_folder, size))
    assert f"model.size={size}: the model was made for 32 pixels and {words}" in line
    for near in (None, 32, 40, 24):
        assert suitability_warnings(info, config_of(tiny_model_folder, near)) == []


def test_the_plan_says_it_once(
    tiny_model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The driver logs the lines as warnings, before anything is computed."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    config = config_of(tiny_model_folder, 64)
    places = {"input": {"shards": f"{tmp_path}/in/*.tar"}, "output": {"path": f"{tmp_path}/out"}}
    make_plan(Config.model_validate(config.model_dump() | places), "cpu")
    assert caplog.text.count("the model was made for 32 pixels") == 1


@pytest.mark.parametrize("sample_size", [[8, 8], 8, None])
def test_sample_size_may_be_a_list(tmp_path: Path, sample_size: Any) -> None:
    """Some converters write height and width."""
    folder = make_tiny_stable_diffusion(tmp_path / "model")
    config = folder / "unet/config.json"
    tree = json.loads(config.read_text()) | {"sample_size": sample_size}
    config.write_text(json.dumps(tree))
    info = probe_model(config_of(folder).model)
    assert info.native_size == (32 if sample_size else 256)
    config.write_text(json.dumps(tree | {"sample_size": [8, 16]}))
    with pytest.raises(ValueError, match=r"sample_size=\[8, 16\]; allowed is a square's side"):
        probe_model(config_of(folder).model)
