"""Models on a hub: what is asked, what is downloaded, and what is said when that fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, snapshot_download
from safetensors.torch import load_file, save_file

from pipeline.config.config import Model
from pipeline.config.scores import Scores
from pipeline.config.stages import Stage
from pipeline.models.classifier import ImageClassifier, check_classifier
from pipeline.models.loading import load_model
from pipeline.models.probe import ModelInfo, probe_model
from pipeline.models.score_weights import probe_scores
from pipeline.models.scorers import load_scorers
from tests.models.small_hub import SmallHub
from tests.tiny_scorers import make_tiny_scorers

NAME = "owner/name"
UNET = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = r"\.safetensors$"


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff waits milliseconds."""
    sleep = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(min(seconds, 0.005)))


def probe(**settings: Any) -> ModelInfo:
    return probe_model(Model(path=NAME, **settings))


def load(**settings: Any) -> ModelInfo:
    return load_model(Model(path=NAME, **settings), "cpu", Stage()).info


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_unsupported_family_is_refused_after_one_file(small_hub: SmallHub, folder: Path) -> None:
    """The pipeline's class is in model_index.json: nothing else comes down."""
    edit_json(folder / "model_index.json", _class_name="FluxPipeline")
    small_hub.commit(NAME, folder)
    with pytest.raises(ValueError, match="pipeline class FluxPipeline; allowed are"):
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


ERRORS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "gated": (
        {"gate": "good"},
        ["a gated model, and the hub says: Access to model owner/name is restricted", "HF_TOKEN"],
    ),
    "gated for this account": (
        {"gate": "good", "token": "other"},
        ["the account of HF_TOKEN has no access; accept the licence on http", "/owner/name"],
    ),
    "forbidden": (
        {"forbidden": True, "token": "other"},
        ["the hub refuses with 403 and says: Not for your region", "HF_TOKEN may not read it"],
    ),
    "mistyped": (
        {"name": "owner/nmae"},
        ["model.path='owner/nmae': no such folder", "check the spelling", "HF_TOKEN"],
    ),
    "no such id": ({"name": "owner/a--b"}, ["no such folder, and not a hub id"]),
    "no such revision": (
        {"revision": "v2"},
        ["model.path='owner/name', model.revision='v2': the hub has this model, but no such rev"],
    ),
    "offline": (
        {"offline": True},
        ["no such folder", "not in the hub's cache", "HF_HUB_OFFLINE is set", "hf download owner"],
    ),
    "no answer": ({"away": True}, ["no such folder", "does not answer", "http://127.0.0.1:9"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_each_refusal_is_a_sentence_of_its_own(
    small_hub: SmallHub, folder: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """One line with the setting, its value, the hub's reason and what to do."""
    given, words = ERRORS[case]
    small_hub.commit(NAME, folder)
    small_hub.repos[NAME].gate = given.get("gate")
    small_hub.repos[NAME].forbidden = given.get("forbidden", False)
    if "token" in given:
        monkeypatch.setenv("HF_TOKEN", given["token"])
    if "offline" in given:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if "away" in given:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    model = Model(path=given.get("name", NAME), revision=given.get("revision"))
    with pytest.raises(FileNotFoundError) as caught:
        probe_model(model)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("model.path='owner/")
    for word in words:
        assert word in message


def test_a_gate_opens_with_the_token(
    small_hub: SmallHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_TOKEN is sent with every request."""
    small_hub.commit(NAME, folder)
    small_hub.repos[NAME].gate = "good"
    monkeypatch.setenv("HF_TOKEN", "good")
    load()


@pytest.mark.parametrize(
    "fault",
    [
        {"cut": 5000},
        {"cut": 5000, "reset": True},
        {"status": 429, "times": 2},
        {"status": 500, "times": 3},
        {"status": 503, "method": "HEAD"},
    ],
    ids=str,
)
def test_a_fault_that_passes_is_a_line(
    small_hub: SmallHub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: dict[str, Any],
) -> None:
    """Broken bodies and busy answers are asked again; a cut body goes on where it broke."""
    small_hub.commit(NAME, folder)
    # the client resumes at whole chunks, which are 10 MB by default
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    small_hub.fail(UNET, **fault)
    info = load()
    assert (info.folder / UNET).read_bytes() == (folder / UNET).read_bytes()
    if fault == {"cut": 5000}:
        assert small_hub.ranges == ["bytes=5000-"]
    noted = {record.name.partition(".")[0] for record in caplog.records}
    assert noted & {"huggingface_hub", "pipeline"} or fault["method"] == "HEAD"


@pytest.mark.parametrize("path", ["/revision/", "/tree/", "model_index.json", "unet/config.json"])
@pytest.mark.parametrize("status", [429, 502])
def test_questions_are_asked_again(
    small_hub: SmallHub, folder: Path, path: str, status: int
) -> None:
    """A busy hub does not end the start, whatever is asked of it."""
    small_hub.commit(NAME, folder)
    small_hub.fail(path, status=status, times=2)
    probe()


@pytest.mark.parametrize("path", ["/revision/", "/tree/"])
def test_a_hub_that_does_not_answer_is_asked_again(
    small_hub: SmallHub, folder: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """The client would wait forever."""
    monkeypatch.setattr("pipeline.models.hub_requests.ANSWER_S", 0.3)
    small_hub.commit(NAME, folder)
    small_hub.fail(path, stall_s=2.0)
    start = time.monotonic()
    probe()
    assert time.monotonic() - start < 2.0
    assert len(small_hub.got(path)) == 2


def test_a_download_that_was_given_up_goes_on_from_there(small_hub: SmallHub, folder: Path) -> None:
    """The error is one line; the next start takes only what did not come."""
    commit = small_hub.commit(NAME, folder)
    small_hub.fail(UNET, status=500, times=999)
    with pytest.raises(FileNotFoundError, match=r"failed again and again.*goes on") as caught:
        load()
    assert "\n" not in str(caught.value)
    small_hub.faults.clear()
    small_hub.requests.clear()
    load(revision=commit)
    weights = {path.partition(f"/{commit}/")[2] for path in small_hub.got(WEIGHTS)}
    assert UNET in weights
    assert len(weights) < 3


def test_a_wrong_byte_is_found_and_downloaded_again(
    small_hub: SmallHub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client compares sizes only; here sha256 too. Twice the same is an error by name."""
    small_hub.commit(NAME, folder)
    small_hub.fail(UNET, damage=True)
    info = load()
    assert (info.folder / UNET).read_bytes() == (folder / UNET).read_bytes()
    assert "downloading it again" in caplog.text
    (info.folder / UNET).resolve().unlink()
    small_hub.fail(UNET, damage=True, times=2)
    with pytest.raises(FileNotFoundError, match=rf"{UNET} has sha256 .* on the hub"):
        load()


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda data: b"\1" + data[1:]])
def test_a_cache_that_was_damaged_later_is_found(
    small_hub: SmallHub, folder: Path, damage: Any
) -> None:
    """A checked file is not read again, unless its size or times have changed."""
    commit = small_hub.commit(NAME, folder)
    info = load()
    blob = (info.folder / UNET).resolve()
    blob.write_bytes(damage(blob.read_bytes()))
    small_hub.requests.clear()
    load(revision=commit)
    assert len(small_hub.got(UNET)) == 1
    assert (info.folder / UNET).read_bytes() == (folder / UNET).read_bytes()


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


def test_a_cache_that_takes_no_notes_is_used(small_hub: SmallHub, folder: Path) -> None:
    """The listing and what is checked cannot be kept: the hub is asked again, and it works."""
    small_hub.commit(NAME, folder)
    notes = Path(constants.HF_HUB_CACHE) / "models--owner--name/overpaint"
    notes.parent.mkdir(parents=True)
    notes.write_text("a file where the folder would be")
    load()
    assert load().files


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
from pipeline.config.config import Model
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
