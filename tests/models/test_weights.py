"""A network whose weights do not fit is refused by name; none of its tensors is ever random."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.loading import load_model

COMPONENTS = ("unet", "vae", "text_encoder")
Change = Callable[[dict[str, Tensor]], str]  # changes the tensors, returns the name of one


def drop(tensors: dict[str, Tensor]) -> str:
    name = sorted(tensors)[0]
    del tensors[name]
    return name


def rename(tensors: dict[str, Tensor]) -> str:
    name = sorted(tensors)[0]
    tensors[f"old.{name}"] = tensors.pop(name)
    return name


def reshape(tensors: dict[str, Tensor]) -> str:
    name = sorted(tensors)[0]
    tensors[name] = torch.zeros(3, 3)
    return name


def changed(folder: Path, component: str, change: Change) -> str:
    (path,) = (folder / component).glob("*.safetensors")
    tensors = load_file(path)
    name = change(tensors)
    save_file(tensors, path)
    return name


def load(folder: Path) -> None:
    load_model(Model(path=str(folder)), "cpu", Stage())


def not_a_number(tensors: dict[str, Tensor]) -> str:
    name = sorted(tensors)[0]
    tensors[name].view(-1)[-1] = torch.nan
    return name


def infinite(tensors: dict[str, Tensor]) -> str:
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = -torch.inf
    return name


def more_layers(tensors: dict[str, Tensor]) -> str:
    name = next(name for name in sorted(tensors) if re.search(r"\.0\.", name))
    further = name.replace(".0.", ".77.", 1)
    tensors[further] = tensors[name].clone()
    return further


CHANGES = [drop, rename, reshape, not_a_number, infinite]


@pytest.mark.parametrize(
    ("component", "change"),
    [
        *((component, change) for component in COMPONENTS for change in CHANGES),
        *((component, more_layers) for component in ("unet", "vae")),
    ],
)
def test_a_tensor_that_does_not_fit_ends_the_load_by_name(
    folder: Path, component: str, change: Change
) -> None:
    """Missing, renamed, of another shape, not finite, or of a layer that the config leaves out.

    The message has model, folder and name.
    """
    name = changed(folder, component, change)
    with pytest.raises(ValueError, match=r"model\.path=") as error:
        load(folder)
    assert name in str(error.value)
    assert component in str(error.value)


def test_a_text_encoder_may_have_more_layers_than_its_config(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last ones are not used, as with models that were trained so; the log names them."""
    name = changed(folder, "text_encoder", more_layers)
    with caplog.at_level("INFO", logger="pipeline.models.weights"):
        load(folder)
    assert name in caplog.text


def test_a_text_encoder_without_any_of_its_tensors_is_refused(folder: Path) -> None:
    """Weights of another layout: all names differ, which the libraries only log."""

    def all_renamed(tensors: dict[str, Tensor]) -> str:
        for name in list(tensors):
            tensors[f"other.{name}"] = tensors.pop(name)
        return ""

    changed(folder, "text_encoder", all_renamed)
    with pytest.raises(ValueError, match=r"lack \d+ tensors of the network"):
        load(folder)


def test_what_older_versions_stored_besides_is_no_error(folder: Path) -> None:
    """position_ids were tensors once; an unknown tensor is logged, not refused."""

    def more(tensors: dict[str, Tensor]) -> str:
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        tensors["unknown.weight"] = torch.zeros(2)
        return ""

    changed(folder, "text_encoder", more)
    load(folder)
