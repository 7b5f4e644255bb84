"""Weights and tokenizers that are not what they say are found by the probe, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.config.model import Model
from pipeline.config.scores import Scores
from pipeline.config.stages import Stage
from pipeline.models.loading import load_model
from pipeline.models.probe import probe_model
from pipeline.models.score_weights import probe_scores
from pipeline.plan.plan import make_plan
from tests.published_layouts import make_layout
from tests.samples import raw_sample, write_shard
from tests.tiny_scorers import make_tiny_scorers

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
UNET = "unet/diffusion_pytorch_model.safetensors"


def refused(folder: Path, *words: str) -> None:
    """The probe refuses the folder, in one line that has the words."""
    with pytest.raises(ValueError, match=r"^model\.path") as caught:
        probe_model(Model(path=str(folder)), hash_files=False)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def loaded_files(folder: Path) -> tuple[str, ...]:
    return probe_model(Model(path=str(folder))).files


def test_a_pointer_of_lfs_is_named_with_the_remedy(folder: Path) -> None:
    """Each file that is loaded, configs and vocabularies among them."""
    for name in loaded_files(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(POINTER)
        refused(folder, f"{folder / name} is a pointer of Git LFS", "git lfs pull")
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1], "is truncated: "),
        (lambda data: data[:1000], "no header in 1000 bytes"),
        (lambda data: data[:3], "no header in 3 bytes"),
        (lambda data: b"", "no header in 0 bytes"),
        (lambda data: data + b"\0", "is too long: "),
        (lambda data: data[:8] + b"x" + data[9:], "its header is not JSON"),
    ],
)
def test_truncated_weights_are_found_by_their_header(
    folder: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    """Without reading them: header and size of the file contradict each other."""
    path = folder / UNET
    path.write_bytes(change(path.read_bytes()))
    refused(folder, UNET, words)


@pytest.mark.parametrize("layout", ["SDXL, sharded", "SD3.5 large"])
def test_a_shard_that_is_missing_or_short_is_named(tmp_path: Path, layout: str) -> None:
    """Of the network and of T5: the index says which files there are."""
    folder = make_layout(layout, tmp_path / "model")
    for path in folder.glob("*/*fp16*"):
        path.unlink()  # would be taken instead
    for index in folder.glob("*/*.safetensors.index.json"):
        shard = sorted(set(json.loads(index.read_text())["weight_map"].values()))[-1]
        path = index.parent / shard
        content = path.read_bytes()
        path.write_bytes(content[:-9])
        refused(folder, f"{index.parent.name}/{shard} is truncated")
        path.unlink()
        refused(folder, f"{index.parent.name}/{index.name} names {shard}, which is missing")
        path.write_bytes(content)
        tree = index.read_text()
        index.write_text("{}")
        refused(folder, f"{index.parent.name}/{index.name} has no weight_map")
        index.unlink()
        refused(folder, f"{index.parent.name}/ has ", "nor its index")
        index.write_text(tree)
    probe_model(Model(path=str(folder)), hash_files=False)


@pytest.mark.parametrize("lacking", ["vocab.json", "merges.txt"])
def test_a_tokenizer_without_vocabulary_is_refused(tmp_path: Path, lacking: str) -> None:
    """Without it every text has the same tokens, and every edit is unchanged."""
    folder = make_layout("SD 1.4", tmp_path / "model")
    (folder / "tokenizer" / lacking).unlink()
    refused(folder, "tokenizer/ has no vocabulary", "tokenizer.json or vocab.json and merges.txt")


def test_t5_needs_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    """vocab.json is none of T5's files."""
    folder = make_layout("SD3", tmp_path / "model")
    (folder / "tokenizer_3/tokenizer.json").rename(folder / "tokenizer_3/vocab.json")
    refused(folder, "tokenizer_3/ has no vocabulary", "tokenizer.json or spiece.model")


def test_a_vocabulary_without_words_ends_the_load(tmp_path: Path) -> None:
    """The file is there, and knows no word."""
    folder = make_layout("SD 1.4", tmp_path / "model")
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    (folder / "tokenizer/vocab.json").write_text(json.dumps(words))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="its vocabulary knows no word"):
        load_model(Model(path=str(folder)), "cpu", Stage())


def test_a_dry_run_finds_it(folder: Path, tmp_path: Path) -> None:
    """The plan of `--dry-run` and of a run is the same: no worker starts."""
    (folder / UNET).write_bytes(POINTER)
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    tree = {"input": {"shards": f"{tmp_path}/in/*.tar"}, "output": {"path": f"{tmp_path}/out"}}
    config = Config.model_validate(tree | {"model": {"path": str(folder)}})
    with pytest.raises(ConfigError, match="git lfs pull"):
        make_plan(config, "cpu")


def no_vocabulary(section: dict[str, Any]) -> str:
    for name in ("tokenizer.json", "vocab.json"):
        (Path(section["clip"]["path"]) / name).unlink(missing_ok=True)
    return "scores.clip.path=.* has no vocabulary"


def pointer(section: dict[str, Any]) -> str:
    (Path(section["dinov2"]["path"]) / "model.safetensors").write_bytes(POINTER)
    return "scores.dinov2.path=.*git lfs pull"


def short(section: dict[str, Any]) -> str:
    path = Path(section["nsfw"]["path"]) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    return r"scores\.nsfw\.path=.*model.safetensors is truncated"


def short_file(section: dict[str, Any]) -> str:
    path = Path(section["lpips"]["path"])
    path.write_bytes(path.read_bytes()[:-5])
    return r"scores\.lpips\.path=.*lpips.safetensors is truncated"


@pytest.mark.parametrize("fault", [no_vocabulary, pointer, short, short_file])
def test_scorers_are_checked_alike(tmp_path: Path, fault: Callable[[dict], str]) -> None:
    """Each fault is found at the start, by the scorer's key and the file."""
    section = make_tiny_scorers(tmp_path / "scorers")
    probe_scores(Scores.model_validate(section))
    message = fault(section)
    with pytest.raises(ValueError, match=message):
        probe_scores(Scores.model_validate(section))
