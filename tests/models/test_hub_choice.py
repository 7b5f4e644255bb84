"""Which of a hub model's files are taken, seen from the listing alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.loading import load_model
from tests.models.hub_models import NAME, UNET, WEIGHTS, load, probe
from tests.models.small_hub import SmallHub


def add_rounded(folder: Path, *components: str) -> None:
    """Puts fp16 weights beside, of other numbers, so that a test sees which are loaded."""
    for component in components:
        (plain,) = (folder / component).glob("*.safetensors")
        rounded = {name: (value + 1).half() for name, value in load_file(plain).items()}
        save_file(rounded, plain.with_suffix(".fp16.safetensors"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_half_dtypes_take_the_fp16_files_where_they_exist(
    small_hub: SmallHub, folder: Path, dtype: Any
) -> None:
    """Component by component, and only these come down."""
    add_rounded(folder, "unet")
    commit = small_hub.commit(NAME, folder)
    model = load_model(Model(path=NAME, dtype=dtype), "cpu", Stage())
    wanted = "unet/diffusion_pytorch_model" + (".fp16" if dtype != "float32" else "")
    came = {path.partition(f"/{commit}/")[2] for path in small_hub.got("/unet/.*safetensors")}
    assert came == {f"{wanted}.safetensors"}
    network: Any = model.unbatched.network
    tensors = load_file(folder / f"{wanted}.safetensors")
    bias = tensors["conv_in.bias"].to(getattr(torch, dtype))
    assert torch.equal(network.conv_in.bias, bias)
    # the same choice is made where the plain files lie in the cache already
    assert f"{wanted}.safetensors" in probe(dtype=dtype).files


def test_the_variant_can_be_chosen(small_hub: SmallHub, folder: Path) -> None:
    """What the driver found is a setting too, so a worker with another cache takes the same."""
    add_rounded(folder, "unet")
    small_hub.commit(NAME, folder)
    for settings, wanted in (
        ({"dtype": "bfloat16"}, "fp16"),
        ({"dtype": "bfloat16", "variant": "plain"}, None),
        ({"variant": "fp16"}, "fp16"),
        ({}, None),
    ):
        info = probe(**settings)
        assert info.variants == {"unet": wanted, "vae": None, "text_encoder": None}
        assert info.variant == (wanted or "plain")
        again = probe(**{**settings, "dtype": "float16", "variant": info.variant})
        assert again.files == info.files
    with pytest.raises(ValueError, match=r"variant='bf16': .* allowed are auto, plain, fp16"):
        probe(variant="bf16")


def test_a_cache_that_the_client_filled_needs_no_call(
    small_hub: SmallHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hf download` of everything, then a start offline: the fp16 files are chosen."""
    add_rounded(folder, "unet")
    commit = small_hub.commit(NAME, folder)
    snapshot_download(NAME)
    small_hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    info = load(dtype="bfloat16", revision=commit)
    assert (info.commit, info.variants["unet"]) == (commit, "fp16")
    assert load(dtype="bfloat16").commit == commit
    assert not small_hub.requests


def test_fp16_files_are_taken_if_there_are_no_others(small_hub: SmallHub, folder: Path) -> None:
    """In any dtype."""
    add_rounded(folder, "unet")
    (folder / UNET).unlink()
    small_hub.commit(NAME, folder)
    assert load().variants["unet"] == "fp16"


def shard(folder: Path, component: str, shards: int = 2) -> Path:
    """Splits a component's weights; returns the index."""
    (plain,) = (folder / component).glob("*.safetensors")
    tensors = load_file(plain)
    plain.unlink()
    stem = plain.name.removesuffix(".safetensors")
    weight_map: dict[str, str] = {}
    for number in range(shards):
        name = f"{stem}-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[number::shards]}
        save_file(part, plain.with_name(name), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    total = sum(value.nbytes for value in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path = plain.with_name(f"{stem}.safetensors.index.json")
    path.write_text(json.dumps(index))
    return path


def test_shards_are_compared_with_their_index_before_any_comes(
    small_hub: SmallHub, folder: Path
) -> None:
    """The listing tells which shard is missing or too short; whole ones are loaded."""
    index = shard(folder, "unet")
    small_hub.commit(NAME, folder)
    load()
    first, second = sorted(index.parent.glob("*-of-00002.safetensors"))
    second.write_bytes(second.read_bytes()[: -(second.stat().st_size // 2)])
    small_hub.commit(NAME, folder)
    small_hub.requests.clear()
    with pytest.raises(ValueError, match=r"unet/\S+index.json says \d+ bytes, and 2 files of"):
        probe()
    first.unlink()
    small_hub.commit(NAME, folder)
    with pytest.raises(ValueError, match=rf"index.json names {first.name}, which is missing"):
        probe()
    assert not small_hub.got(WEIGHTS)


def test_a_tokenizer_without_vocabulary_is_found_in_the_listing(
    small_hub: SmallHub, folder: Path
) -> None:
    """No file has to come down for it."""
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)
    small_hub.commit(NAME, folder)
    with pytest.raises(
        ValueError, match=r"tokenizer/ has no vocabulary; allowed is tokenizer\.json"
    ):
        probe()
