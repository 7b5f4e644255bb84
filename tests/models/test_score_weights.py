"""Weights of scorers are found and checked at start-up; errors say what is allowed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.scores import Scores
from pipeline.models.score_weights import probe_scores
from tests.tiny_scorers import make_tiny_scorers

Section = dict[str, Any]


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> Section:
    return make_tiny_scorers(tmp_path_factory.mktemp("scorers"))


@pytest.fixture
def copied(section: Section, tmp_path: Path) -> Section:
    """A copy of the weights that a test may change."""
    old = Path(section["lpips"]["path"]).parent
    shutil.copytree(old, tmp_path / "w")
    return json.loads(json.dumps(section).replace(str(old), str(tmp_path / "w")))


def change_config(section: Section, name: str, **changes: Any) -> None:
    path = Path(section[name]["path"]) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickled(section: Section, name: str) -> None:
    path = Path(section[name]["path"]) / "model.safetensors"
    path.rename(path.with_name("pytorch_model.bin"))


def test_revisions_follow_the_files(section: Section, copied: Section) -> None:
    """Revisions of equal files in another folder are equal; a changed config changes its own."""
    before = probe_scores(Scores.model_validate(section))
    after = probe_scores(Scores.model_validate(copied))
    assert {n: f.revision for n, f in before.items()} == {n: f.revision for n, f in after.items()}
    change_config(copied, "dino", note=1)
    changed = probe_scores(Scores.model_validate(copied))
    assert [n for n in before if changed[n].revision != before[n].revision] == ["dino"]
    unhashed = probe_scores(Scores.model_validate(section), hash_files=False)
    assert {files.revision for files in unhashed.values()} == {""}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["clip"].update(path="/no/where"), "scores.clip.path='/no/where': no such"),
        (lambda s: s["lpips"].update(path="owner/name"), "it is not in the hub's cache"),
        (lambda s: pickled(s, "dino"), "has pickled weights only (pytorch_model.bin)"),
        (lambda s: s["dino"].update(path=s["clip"]["path"]), "of type 'clip'; allowed is 'vit'"),
        (
            lambda s: s["dino"].update(layer=3),
            "scores.dino.layer=3: this network has layers 0 to 2",
        ),
        (lambda s: s["nsfw"].update(label="nude"), "this network has labels ['normal', 'nsfw']"),
        (lambda s: change_config(s, "clip", projection_dim=8), "scores.clip gives 8 features"),
        (
            lambda s: s["clip"].update(path=s["lpips"]["path"]),
            "a file of the wrong kind; allowed is a folder or a hub id",
        ),
        (
            lambda s: (Path(s["nsfw"]["path"]) / "preprocessor_config.json").unlink(),
            "has no preprocessor_config.json",
        ),
        (
            lambda s: Path(s["lpips"]["path"]).write_bytes(b"no tensors"),
            "not safetensors",
        ),
        (
            lambda s: s["lpips"].update(net="alex"),
            "features.0.weight is (64, 3, 3, 3); alex needs (64, 3, 11, 11)",
        ),
        (lambda s: s["aesthetic"].update(path=s["lpips"]["path"]), "scores.aesthetic.path="),
    ],
)
def test_unusable_weights_are_named(
    copied: Section, change: Callable[[Section], Any], message: str
) -> None:
    """Each fault alone is an error that names it."""
    change(copied)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        probe_scores(Scores.model_validate(copied))
    assert message in str(caught.value)
