"""Models on a hub: what is asked, what is downloaded, where and how often."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from pipeline.config.model import Model
from pipeline.config.scores import Scores
from pipeline.config.stages import Stage
from pipeline.models.classifier import ImageClassifier, check_classifier
from pipeline.models.loading import load_model
from pipeline.models.score_weights import probe_scores
from pipeline.models.scorers import load_scorers
from tests.models.hub_models import NAME, UNET, WEIGHTS, load, probe
from tests.models.small_hub import SmallHub
from tests.tiny_scorers import make_tiny_scorers


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_unsupported_family_is_refused_after_one_file(small_hub: SmallHub, folder: Path) -> None:
    """The pipeline's class is in model_index.json: nothing else comes down."""
    edit_json(folder / "model_index.json", _class_name="AudioLDM2Pipeline")
    small_hub.commit(NAME, folder)
    with pytest.raises(ValueError, match="pipeline class AudioLDM2Pipeline; allowed are"):
        probe()
    (only,) = small_hub.got("/resolve/")
    assert only.endswith("/model_index.json")


def test_the_driver_downloads_no_weights(small_hub: SmallHub, folder: Path) -> None:
    """The probe takes configs only; the worker takes exactly what it loads, once."""
    commit = small_hub.commit(NAME, folder)
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "sd.safetensors").write_bytes(b"a root checkpoint")
    info = probe()
    assert (info.commit, info.revision) == (commit, commit)
    assert not small_hub.got(WEIGHTS)
    load(revision=commit)
    came = [path.partition(f"/{commit}/")[2] for path in small_hub.got("/resolve/")]
    assert sorted(came) == sorted(info.files)


def test_a_cached_commit_needs_no_call_to_the_hub(small_hub: SmallHub, folder: Path) -> None:
    """Hundreds of actors start without asking it; a file that was lost is asked for again."""
    commit = small_hub.commit(NAME, folder)
    load()
    small_hub.requests.clear()
    assert load(revision=commit).commit == commit
    assert small_hub.requests == []
    (Path(constants.HF_HUB_CACHE) / f"models--owner--name/snapshots/{commit}" / UNET).unlink()
    load(revision=commit)
    assert {path.rpartition("/")[2] for _, path in small_hub.requests} == {Path(UNET).name}


def test_a_branch_that_moves_is_not_followed(small_hub: SmallHub, folder: Path) -> None:
    """A worker that starts later loads what the driver found, from the hub's older commit."""
    first = small_hub.commit(NAME, folder)
    assert probe(revision="main").revision == first
    other = Path(shutil.copytree(folder, folder.with_name("other")))
    zeros = {name: torch.zeros_like(value) for name, value in load_file(other / UNET).items()}
    save_file(zeros, other / UNET)
    second = small_hub.commit(NAME, other)
    model = load_model(Model(path=NAME, revision=first), "cpu", Stage())
    network: Any = model.unbatched.network
    assert torch.equal(network.conv_in.bias, load_file(folder / UNET)["conv_in.bias"])
    assert not small_hub.got(second)
    assert probe(revision="main").revision == second


def test_a_branch_is_its_last_known_commit_where_the_hub_is_away(
    small_hub: SmallHub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Offline in silence, otherwise with a line that names the commit."""
    commit = small_hub.commit(NAME, folder)
    load()
    small_hub.fail("/api/models/", status=503, times=99)
    assert probe().commit == commit
    assert f"taking commit {commit}, which is in the cache" in caplog.text
    caplog.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert probe(revision="main").commit == commit
    assert not caplog.text
    load()


def test_a_cache_that_takes_no_notes_is_used(small_hub: SmallHub, folder: Path) -> None:
    """The listing and what is checked cannot be kept: the hub is asked again, and it works."""
    small_hub.commit(NAME, folder)
    notes = Path(constants.HF_HUB_CACHE) / "models--owner--name/overpaint"
    notes.parent.mkdir(parents=True)
    notes.write_text("a file where the folder would be")
    load()
    assert load().files


def test_scorers_are_found_alike(small_hub: SmallHub, tmp_path: Path) -> None:
    """The driver reads configs and the headers of weights; the worker downloads what it loads."""
    section = make_tiny_scorers(tmp_path / "scorers")
    (tmp_path / "lpips").mkdir()
    shutil.move(section["lpips"]["path"], tmp_path / "lpips/lpips.safetensors")
    (tmp_path / "scorers/clip/flax_model.msgpack").write_bytes(b"other weights")
    for name in ("clip", "dino"):
        small_hub.commit(f"owner/{name}", tmp_path / "scorers" / name)
    commit = small_hub.commit("owner/lpips", tmp_path / "lpips")
    section = {name: section[name] | {"path": f"owner/{name}"} for name in ("clip", "dino")}
    section["lpips"] = {"path": "owner/lpips", "net": "squeeze"}
    found = probe_scores(Scores.model_validate(section))
    assert found["lpips"].revision == commit
    assert not any(path.is_file() for files in found.values() for path in files.weights)
    load_scorers(Scores.model_validate(section), "cpu", Stage())
    assert all(path.is_file() for files in found.values() for path in files.weights)
    small_hub.commit("owner/judge", tmp_path / "scorers/nsfw")
    check_classifier("owner/judge")
    assert not small_hub.got(f"owner/judge/.*{WEIGHTS}")
    assert ImageClassifier("owner/judge", "cpu").num_classes == 2
    assert not small_hub.got("flax")
    section["lpips"]["net"] = "alex"
    with pytest.raises(ValueError, match="alex needs"):
        probe_scores(Scores.model_validate(section))


LOAD = """
import sys
from pipeline.config.model import Model
from pipeline.models.probe import probe_model
print(probe_model(Model(path="owner/name"), hash_files=False, fetch=True).commit)
"""


def test_processes_on_one_cache_download_once(
    small_hub: SmallHub, folder: Path, tmp_path: Path
) -> None:
    """Four workers of a node start at the same time: each file comes once."""
    commit = small_hub.commit(NAME, folder)
    environment = os.environ | {
        "HF_ENDPOINT": small_hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    workers = [
        subprocess.Popen([sys.executable, "-c", LOAD], env=environment, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert [worker.communicate()[0].decode().strip() for worker in workers] == [commit] * 4
    weights = small_hub.got(WEIGHTS)
    assert len(weights) == len(set(weights)) == 3
