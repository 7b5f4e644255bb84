"""Actors that ask for the empty text only: they hold no text encoder, and write the same bytes."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pipeline.config.config import Config
from pipeline.config.lora import Lora
from pipeline.config.model import Model
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.stages.build import load_stages
from tests.models.test_added import diffusers_file, factors_of, layers_of
from tests.models.test_flux_1 import make_tiny_flux
from tests.packed import to_bytes
from tests.parts import make_config, make_part, make_prepared, run_stages
from tests.tiny_models import make_tiny_sd3, make_tiny_sdxl

MAKERS: dict[str, Callable[[Path], Path]] = {
    "sdxl": make_tiny_sdxl,
    "sd3": make_tiny_sd3,
    "flux.1": make_tiny_flux,
}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("models") / "model")


def configured(folder: Path, **method: Any) -> Config:
    """Of a model without guidance: FLUX.1 refuses to be inverted with it."""
    config = make_config(**method)
    return config.model_copy(update={"model": Model(path=str(folder), size=32)})


def num_text_parameters() -> int:
    """Of all text encoders in this process."""
    gc.collect()
    encoders = [found for found in gc.get_objects() if isinstance(found, PreTrainedModel)]
    return sum(parameter.numel() for one in encoders for parameter in one.parameters())


def encoding(config: Config) -> LatentDiffusion:
    """The model of an actor that encodes."""
    stage = load_stages(config, "encode", "cpu")["encode"]
    model = stage.model  # type: ignore[attr-defined]
    assert isinstance(model, LatentDiffusion)
    return model


def test_an_actor_that_encodes_holds_no_text_encoder(folder: Path) -> None:
    """Nor does any object that it has dropped; an actor that infers masks holds all of them."""
    before = num_text_parameters()
    model = encoding(configured(folder))
    assert num_text_parameters() == before
    assert model.text.towers == ()
    masks = load_stages(configured(folder), "mask", "cpu")
    assert num_text_parameters() > before
    del model, masks
    assert num_text_parameters() == before


@pytest.mark.parametrize(
    ("method", "pool", "stages"),
    [
        ({}, "encode", ["encode"]),
        ({"mask": {"source": "full"}}, "encode", ["mask", "encode"]),
    ],
    ids=["masks inferred elsewhere", "no masks to infer"],
)
def test_what_it_encodes_is_what_the_encoders_give(
    folder: Path, method: dict[str, Any], pool: str, stages: list[str]
) -> None:
    """Trajectories are equal to the bit to those of an actor with all encoders."""
    config = configured(folder, **method)
    whole = load_model(config.model, "cpu", config.stages.encode)
    part = make_part(make_prepared(0, "a cat"), make_prepared(1, "a red dog"))
    if stages == ["encode"]:
        part = run_stages(whole, part, config, ["mask"])
    wanted = to_bytes(run_stages(whole, copy.deepcopy(part), config, stages))
    loaded = load_stages(config, pool, "cpu")
    assert list(loaded) == stages
    for stage in loaded.values():
        part = stage(part)
    assert part.samples[0].trajectory is not None
    assert to_bytes(part) == wanted


def test_the_empty_text_has_as_many_rows_as_asked_for(folder: Path) -> None:
    """As a compiled network's warm-up asks; each row is the encoders' own, whatever the batch."""
    config = configured(folder)
    whole = load_model(config.model, "cpu", config.stages.encode)
    with torch.inference_mode():
        wanted = whole.text.encode([""] * 3)
    found = encoding(config).with_micro_batch(2).text.encode([""] * 3)
    assert torch.equal(found.tokens, wanted.tokens)
    for one, other in ((found.pooled, wanted.pooled), (found.guidance, wanted.guidance)):
        assert one is None or (other is not None and torch.equal(one, other))
    assert len(found) == 3


def test_another_text_is_refused(tiny_model_folder: Path) -> None:
    """A stage that is given such a model by mistake must not take every text for the empty one."""
    model = encoding(configured(tiny_model_folder))
    with pytest.raises(ValueError, match="text 'a cat': no encoder is loaded here"):
        model.text.encode(["", "a cat"])
    with pytest.raises(ValueError, match="allowed is the empty text"):
        model.text.token_ids("a cat")
    assert model.text.token_ids("") == ()


def test_imagics_fit_keeps_the_encoders(tiny_model_folder: Path) -> None:
    """It is the stage encode too, and fits the embeddings of edit texts."""
    assert encoding(configured(tiny_model_folder, name="imagic")).text.towers


def test_a_lora_is_fused_before_the_empty_text_is_embedded(tmp_path: Path) -> None:
    """It changes the encoders too, which then go all the same."""
    folder, path = make_tiny_sdxl(tmp_path / "model", zero_empty=False), tmp_path / "a.safetensors"
    plain = load_model(Model(path=str(folder)), "cpu", configured(folder).stages.encode)
    diffusers_file(factors_of(layers_of(plain, convolutions=False)), path)
    config = configured(folder)
    with_lora = Model(path=str(folder), lora=[Lora(path=str(path))])
    config = config.model_copy(update={"model": with_lora})
    whole = load_model(with_lora, "cpu", config.stages.encode)
    model = encoding(config)
    with torch.inference_mode():
        wanted, unfused = whole.text.encode([""]), plain.text.encode([""])
    assert not model.text.towers
    assert torch.equal(model.text.encode([""]).tokens, wanted.tokens)
    assert not torch.equal(wanted.tokens, unfused.tokens)
