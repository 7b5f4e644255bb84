"""What is said when a hub refuses, is busy or gives damaged files, and what goes on by itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.model import Model
from pipeline.models.probe import probe_model
from tests.models.hub_models import NAME, UNET, WEIGHTS, load, probe
from tests.models.small_hub import SmallHub

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
    is_short = "status" in fault or fault.get("method") == "HEAD"  # over before it is an outage
    assert noted & {"huggingface_hub", "pipeline"} or is_short


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
