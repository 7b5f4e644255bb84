"""What the driver found on a hub is what every worker loads, also after the branch has moved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config.config import Config
from pipeline.config.stages import Stage
from pipeline.models import weights
from pipeline.models.loading import load_model
from pipeline.models.score_weights import probe_scores
from pipeline.models.scorers import Scorers
from pipeline.plan.plan import make_plan
from tests.samples import raw_sample, write_shard
from tests.tiny_scorers import make_tiny_scorers

FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a folder into the hub's cache as a commit of owner/NAME, and moves main to it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name: str, folder: Path, commit: str) -> Path:
        cached = tmp_path / f"hub/models--owner--{name}"
        shutil.copytree(folder, cached / "snapshots" / commit)
        (cached / "refs").mkdir(exist_ok=True)
        (cached / "refs/main").write_text(commit)
        return cached / "snapshots" / commit

    return put


def config_of(tmp_path: Path, **sections: Any) -> Config:
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    tree = {"input": {"shards": f"{tmp_path}/in/*.tar"}, "output": {"path": f"{tmp_path}/out"}}
    return Config.model_validate(tree | sections)


def test_a_branch_that_moves_after_the_start_is_not_followed(
    cache: Callable[..., Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The plan names commit A; main is B by the time that an actor loads; it holds A's weights."""
    cache("model", tiny_model_folder, FIRST)
    model = {"path": "owner/model", "revision": "main", "size": 32}
    plan = make_plan(config_of(tmp_path, model=model), "cpu")
    assert plan.config.model.revision == FIRST
    moved = cache("model", tiny_model_folder, SECOND)
    (stored,) = (moved / "unet").glob("*.safetensors")
    other = {name: torch.zeros_like(value) for name, value in load_file(stored).items()}
    save_file(other, stored)
    loaded = load_model(plan.config.model, "cpu", Stage())
    assert loaded.info.folder.name == FIRST
    network: Any = loaded.unbatched
    assert sum(float(value.abs().sum()) for value in network.network.parameters()) > 0


def test_scorers_of_a_branch_are_pinned_too(
    cache: Callable[..., Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The networks that judge are those whose commit is in the fingerprint."""
    section = make_tiny_scorers(tmp_path / "scorers")
    folder = Path(section["clip"]["path"])
    cache("clip", folder, FIRST)
    scores = {"clip": {"path": "owner/clip", "revision": "main"}}
    model = {"path": str(tiny_model_folder), "size": 32}
    plan = make_plan(config_of(tmp_path, model=model, scores=scores), "cpu")
    cache("clip", folder, SECOND)
    found = probe_scores(plan.config.scores)["clip"]
    assert (found.folder.name, found.revision) == (FIRST, FIRST)


def test_a_folder_that_changes_after_the_start_is_refused(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The plan names a hash; a worker that finds other weights does not compute with them."""
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    model = {"path": str(folder), "revision": "main", "size": 32}
    plan = make_plan(config_of(tmp_path, model=model), "cpu")
    assert plan.config.model.revision == plan.model.revision
    load_model(plan.config.model, "cpu", Stage())
    (folder / "unused.bin").write_bytes(b"no part of it")
    load_model(plan.config.model, "cpu", Stage())
    (stored,) = (folder / "unet").glob("*.safetensors")
    save_file({n: torch.zeros_like(v) for n, v in load_file(stored).items()}, stored)
    with pytest.raises(ValueError, match=r"model\.revision asks for .*: the folder was changed"):
        load_model(plan.config.model, "cpu", Stage())


def test_scorers_that_change_after_the_start_are_refused(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """A file, and a folder."""
    section = make_tiny_scorers(tmp_path / "scorers")
    scores = {name: section[name] for name in ("lpips", "dino")}
    model = {"path": str(tiny_model_folder), "size": 32}
    plan = make_plan(config_of(tmp_path, model=model, scores=scores), "cpu")
    probe_scores(plan.config.scores, hash_files=False)
    for name in ("dino/model", "lpips"):
        weights = tmp_path / f"scorers/{name}.safetensors"
        before = weights.read_bytes()
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        key = name.partition("/")[0]
        with pytest.raises(ValueError, match=rf"scores\.{key}\.revision asks for"):
            probe_scores(plan.config.scores, hash_files=False)
        weights.write_bytes(before)


def test_a_file_that_is_replaced_while_it_is_loaded_is_refused(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was hashed just before, by the same actor; what is loaded are other weights."""
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    section = make_tiny_scorers(tmp_path / "scorers")
    model, scores = {"path": str(folder), "size": 32}, {"lpips": section["lpips"]}
    plan = make_plan(config_of(tmp_path, model=model, scores=scores), "cpu")
    load = weights.load_network

    def replace(path: Path) -> None:
        other = {name: value + 1 for name, value in load_file(path).items()}
        save_file(other, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load_network(kind: Any, place: Path, *rest: Any, **more: Any) -> Any:
        if place.name == "unet":
            replace(place / "diffusion_pytorch_model.safetensors")
        return load(kind, place, *rest, **more)

    monkeypatch.setattr("pipeline.models.components.load_network", load_network)
    with pytest.raises(ValueError, match=r"model\.revision asks for .*: the folder was changed"):
        load_model(plan.config.model, "cpu", Stage())

    def lpips(self: Scorers, net: str, files: Any) -> None:
        replace(tmp_path / "scorers/lpips.safetensors")

    monkeypatch.setattr(Scorers, "_lpips", lpips)
    with pytest.raises(ValueError, match=r"scores\.lpips\.revision asks for"):
        Scorers(plan.config.scores, "cpu", 1)
