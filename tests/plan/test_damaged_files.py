"""Damaged files of an output: each command names the file in a line, without a traceback."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest

from pipeline.records.printable import printable
from tests.plan.damaged import (
    BOMB,
    DEEP,
    RUN_FILES,
    Damaged,
    answer,
    commands,
    make_damaged,
    mutated,
)

HOSTILE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
DAMAGE = (b"null", b"[]", b"{", DEEP, b'{"version": 2}')
# Which commands cannot go on without a file. The others do not read it, or do without it.
NEEDED = {
    "_run/run.json": {"report", "edit"},
    "_run/inputs.json": {"status", "status --json", "report", "edit"},
    "_run/filters.json": {"refilter", "edit"},
    "_run/config.yaml": {"refilter", "mix"},
    "_run/summary.json": {"report"},
    "_run/environment.json": {"report"},
    "_run/costs.json": set(),
    "_run/cut_shards.json": {"edit"},
    "_run/model_files.json": set(),  # what is not known is hashed again
}
READERS = {name: sorted({"verify", "edit", *readers}) for name, readers in NEEDED.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    return make_damaged(tmp_path_factory.mktemp("damaged"))


def test_the_whole_output_is_read_by_every_command(made: Damaged) -> None:
    """So what the tests below see comes from the damage alone."""
    for name, command in commands(made).items():
        found = answer(command)
        assert (found.trace, found.code) == ("", 0), (name, found)
        made.restore()


@pytest.mark.parametrize("data", [*DAMAGE, BOMB], ids=["null", "list", "cut", "deep", "v2", "bomb"])
@pytest.mark.parametrize("file", RUN_FILES)
def test_a_damaged_file_of_the_run_is_named(file: str, data: bytes, made: Damaged) -> None:
    """Exit code 2 and one line, where the command needs the file; ``verify`` lists it."""
    if file == "_run/inputs.json" and data == b"[]":
        pytest.skip("an output without input shards is a whole file")
    made.damage(file, data)
    try:
        for name, command in commands(made).items():
            made.damage(file, data)
            found = answer(command)
            assert found.trace == "", (name, found.trace)
            if name in NEEDED[file]:
                assert found.code == 2, (name, found.text)
                assert found.text.startswith("overpaint: "), name
                assert file in found.text, name
                assert found.text.count("\n") == 1, (name, found.text)
            if name == "verify" and file in ("_run/run.json", "_run/filters.json"):
                assert found.code == 1
                assert f"{file}: has no" in found.text
            if name == "verify" and file == "_run/inputs.json":
                assert found.code == 1
                assert f"{file}: is " in found.text
    finally:
        made.restore()


@pytest.mark.parametrize("data", DAMAGE, ids=["null", "list", "cut", "deep", "v2"])
def test_a_damaged_marker_does_not_hide_the_other_shards(data: bytes, made: Damaged) -> None:
    """``verify``, ``status``, ``report`` and a run say which one it is, and go on."""
    made.damage("0_stats.json", data)
    try:
        found = {name: answer(command) for name, command in commands(made).items()}
    finally:
        made.restore()
    assert {name: item.trace for name, item in found.items() if item.trace} == {}
    assert found["status"].code == found["report"].code == found["edit"].code == 0
    shards = json.loads(found["status --json"].text)["shards"]
    assert shards[0]["problem"].startswith("the marker ")
    assert ("newer" in shards[0]["problem"]) == (b"2" in data)
    assert shards[1]["edits"] == 4
    assert found["verify"].code == 1
    assert "0: the marker cannot be read: 0_stats.json: is " in found["verify"].text
    assert "Shard <code>0</code> cannot be read" in (made.output / "_run/report.html").read_text()
    for name in ("refilter", "mix"):
        assert found[name].code == 2
        assert "0_stats.json" in found[name].text


@pytest.mark.timeout(2400)  # the long one took eight minutes on a busy machine
@pytest.mark.parametrize(
    "seeds", [range(200), pytest.param(range(200, 2200), marks=pytest.mark.sweep)], ids=len
)
def test_no_damage_ends_in_a_traceback(seeds: range, made: Damaged) -> None:
    """Files are mutated at random, in bytes and in values; nothing hostile reaches the terminal.

    A seed runs one command that reads the file; in the sweep, every command.
    """
    for seed in seeds:
        drawn = random.Random(seed)
        names = drawn.sample(sorted(made.whole), drawn.choice([1, 1, 2]))
        damage = {name: mutated(made.whole[name], name, drawn) for name in names}
        by_name = commands(made)
        readers = sorted(set().union(*(READERS.get(name, by_name.keys()) for name in damage)))
        chosen = list(by_name) if len(seeds) > 200 else [drawn.choice(readers)]
        try:
            for command in chosen:
                for name, data in damage.items():
                    made.damage(name, data)
                found = answer(by_name[command])
                assert found.trace == "", (seed, command, damage, found.trace)
                assert not HOSTILE.search(found.text), (seed, command, found.text)
                assert "hunter2" not in found.text, (seed, command, found.text)
        finally:
            made.restore()


def test_the_page_shows_no_control_characters(tmp_path: Path) -> None:
    """Nor does its data, whatever the markers say."""
    made = make_damaged(tmp_path)
    marker = json.loads(made.whole["0_stats.json"])
    hostile = "\x1b[2J\u202ecod\x9b"
    marker |= {"problem": hostile, "devices": [hostile], "failures": {f"decode: {hostile}": 1}}
    made.damage("0_stats.json", json.dumps(marker | {"digest": ""}).encode())
    assert answer(commands(made)["report"]).code == 0
    page = (made.output / "_run/report.html").read_text()
    assert not HOSTILE.search(page)
    assert r"\x1b[2J\u202ecod\x9b" in page


@pytest.mark.parametrize(
    "name", [b"[/x]_stats.json", b"a\x1b[2J_stats.json", b"a\nb_stats.json", b"\xff_stats.json"]
)
def test_hostile_names_in_an_output_are_shown_escaped(name: bytes, made: Damaged) -> None:
    """Such a shard is damaged like any other; no object's name crashes or moves the terminal."""
    shard = name.removesuffix(b"_stats.json")
    marker = os.fsencode(made.output) + b"/" + name
    part = os.fsencode(made.output) + b"/_parts/p" + shard + b"/00000-of-00001.arrow"
    try:
        for path in (marker, part):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(os.fsdecode(path)).write_bytes(b"{}")
        for command, call in commands(made).items():
            found = answer(call)
            assert found.trace == "", (command, found.trace)
            assert not HOSTILE.search(found.text.replace("\n", " ")), (command, found.text)
            if command in ("status", "verify"):
                assert printable(os.fsdecode(shard))[:3] in found.text
        page = (made.output / "_run/report.html").read_text()
        assert not HOSTILE.search(page)
        assert "b_stats.json\n" not in page
    finally:
        os.remove(marker)
        shutil.rmtree(made.output / "_parts")
        shutil.rmtree(made.output / "[", ignore_errors=True)
