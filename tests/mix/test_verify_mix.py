"""The audit of a mix finds what is damaged or missing, and mixing again mends it and says so."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.mix.marker import MANIFEST, PLAN_FILE, marker_name
from pipeline.mix.mix import run_mix
from pipeline.mix.plan import make_mix_plan
from pipeline.mix.verify import verify_mix
from pipeline.plan.run_folder import CONFIG_FILE, resolved_yaml
from pipeline.records.run_files import NewerVersionError, RunFileError, sealed_json
from pipeline.storage.store import Store
from tests.committing import contents, make_config
from tests.mix.test_mix import make_outputs, settings
from tests.plan.damaged import answer, mutated

TAR, MARKER = "train/01.tar", marker_name("01")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Input, edited output and mix, made once."""
    folder = tmp_path_factory.mktemp("original")
    make_outputs(folder, images=3)
    run_mix(make_mix_plan(settings(folder)))
    return folder


@pytest.fixture
def mixed(original: Path, tmp_path: Path) -> Store:
    """A copy of all three for each test."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return Store(f"{tmp_path}/mixed")


def flip(store: Store, name: str) -> None:
    data = bytearray(store.get(name))
    data[len(data) // 2] ^= 1
    store.put(name, bytes(data))


def change_marker(store: Store, change: Callable[[dict], object]) -> None:
    """Not by damage: the marker's digest is that of the change."""
    tree = json.loads(store.get(MARKER))
    change(tree["splits"]["train"])
    store.put(MARKER, sealed_json(tree))


def count_more(store: Store) -> None:
    tree = json.loads(store.get(MARKER))
    store.put(MARKER, sealed_json(tree | {"num_images": tree["num_images"] + 10}))


def test_a_whole_mix_has_no_problems(mixed: Store) -> None:
    """Every sample is counted."""
    report = verify_mix(mixed)
    assert report.problems == []
    assert report.num_shards == 3
    assert report.counts["original"] == 3 * 4
    assert report.counts["edited"] > 0


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda s: flip(s, TAR), f"01: {TAR} does not have the sha256 in the marker"),
        (lambda s: s.put(TAR, s.get(TAR)[:-512]), "bytes, the marker says"),
        (lambda s: s.delete(TAR), f"01: {TAR} cannot be read: FileNotFoundError"),
        (lambda s: s.delete(MARKER), "01: is not mixed yet; run the same mix again"),
        (lambda s: s.put(MARKER, b"null"), "is damaged: input should be an object"),
        (lambda s: s.put(MARKER, b'{"version": 2}'), "use a newer overpaint"),
        (lambda s: change_marker(s, lambda split: split.update(edited=99)), "samples, the marker"),
        (lambda s: change_marker(s, lambda split: split.update(tar="../x")), "cannot be read"),
        (count_more, "images by split and reason"),
        (
            lambda s: s.put(MARKER, s.get(MARKER).replace(b'"num_images": ', b'"num_images": 1')),
            "01.json: is damaged: it is not what its digest says",
        ),
        (lambda s: s.delete(PLAN_FILE), f"{PLAN_FILE}: missing"),
        (lambda s: s.put(PLAN_FILE, b"[]"), "plan.json: is damaged"),
        (lambda s: s.delete(MANIFEST), f"{MANIFEST}: missing, so the mix has not ended"),
        (lambda s: s.put(MANIFEST, b"{}"), "manifest.json: is damaged: splits: field required"),
        (lambda s: s.put("train/99.tar", b""), "train/99.tar: belongs to no mixed shard"),
    ],
)
def test_damage_is_found(damage: Callable[[Store], None], line: str, mixed: Store) -> None:
    """Whatever object is damaged, missing or added."""
    damage(mixed)
    problems = verify_mix(mixed).problems
    assert any(line in problem for problem in problems), problems


def test_a_shard_that_has_vanished_is_found(mixed: Store) -> None:
    """Its tars and its marker are gone; the plan still names it."""
    for name in list(mixed.list()):
        if "01" in name:
            mixed.delete(name)
    problems = verify_mix(mixed).problems
    assert "01: is not mixed yet; run the same mix again" in problems
    assert any(MANIFEST in problem for problem in problems)


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: flip(s, TAR),
        lambda s: s.delete(TAR),
        lambda s: s.put(MARKER, b"[]"),
        lambda s: change_marker(s, lambda split: split.update(edited="many")),
        lambda s: s.put(MARKER, s.get(MARKER).replace(b'"num_rows": ', b'"num_rows": 1')),
    ],
    ids=["flipped", "deleted", "marker", "count", "sum"],
)
def test_mixing_again_mends_and_says_so(
    damage: Callable[[Store], None], mixed: Store, tmp_path: Path
) -> None:
    """The bytes are those of an undisturbed mix; only the manifest names the places."""
    before = contents(tmp_path / "mixed")
    counted = json.loads(before.pop(MANIFEST))["splits"]
    damage(mixed)
    said: dict[str, list[str]] = {}
    run_mix(
        make_mix_plan(settings(tmp_path)),
        lambda marker, mended: said.update({marker.shard: mended}),
    )
    assert {shard: len(lines) for shard, lines in said.items()} == {"00": 0, "01": 1, "02": 0}
    after = contents(tmp_path / "mixed")
    assert json.loads(after.pop(MANIFEST))["splits"] == counted
    assert after == before


def test_a_mix_of_a_newer_version_is_left_alone(mixed: Store, tmp_path: Path) -> None:
    """Neither its marker nor its plan is replaced."""
    mixed.put(MARKER, b'{"version": 2}')
    with pytest.raises(NewerVersionError):
        run_mix(make_mix_plan(settings(tmp_path)))
    mixed.put(PLAN_FILE, b"null")
    with pytest.raises(RunFileError, match=r"plan\.json: is damaged"):
        make_mix_plan(settings(tmp_path))


def test_the_commands_mend_and_verify_a_mix(
    mixed: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`overpaint verify` tells a mix from a run's output by itself."""
    config = make_config(f"{tmp_path}/in/*.tar", input={"key_split": "suffix"})
    Store(f"{tmp_path}/out").put(CONFIG_FILE, resolved_yaml(config).encode())
    splits = "splits={train: 0.7, val: 0.3}"
    flip(mixed, TAR)
    assert main(["verify", mixed.url]) == 1
    assert "does not have the sha256 in the marker" in capsys.readouterr().err
    assert main(["mix", mixed.url, "--edited", f"{tmp_path}/out", splits]) == 0
    assert f"warning: shard 01: {TAR} does not have" in capsys.readouterr().err
    assert main(["verify", mixed.url]) == 0
    assert "3 shards, " in capsys.readouterr().out


@pytest.mark.parametrize(
    "seeds", [range(30), pytest.param(range(30, 530), marks=pytest.mark.sweep)], ids=len
)
def test_no_damage_of_a_mix_ends_in_a_traceback(seeds: range, mixed: Store, tmp_path: Path) -> None:
    """Its plan, markers and manifest are mutated at random; the commands name what they refuse."""
    config = make_config(f"{tmp_path}/in/*.tar", input={"key_split": "suffix"})
    Store(f"{tmp_path}/out").put(CONFIG_FILE, resolved_yaml(config).encode())
    again = ["mix", mixed.url, "--edited", f"{tmp_path}/out", "splits={train: 0.7, val: 0.3}"]
    assert main(again) == 0
    whole = {name: mixed.get(name) for name in (PLAN_FILE, MARKER, MANIFEST)}
    for seed in seeds:
        drawn = random.Random(seed)
        name = drawn.choice(sorted(whole))
        data = mutated(whole[name], name, drawn)
        mixed.put(name, data)
        for command in (["verify", mixed.url], [*again, "--dry-run"], again):
            found = answer(partial(main, command))
            assert found.trace == "", (seed, name, data, found.trace)
            assert found.text.replace("\n", "").isprintable(), (seed, found.text)
        for restored, content in whole.items():
            mixed.put(restored, content)
