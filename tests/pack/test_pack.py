"""A pack as a whole: even shards, equal bytes, resuming, keys, stores, and the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.arguments import parse_arguments
from jobs.cli import main
from pipeline.config.input import Input
from pipeline.pack.found import PackError
from pipeline.pack.keys import unique_keys
from pipeline.pack.plan import make_pack_plan
from pipeline.records.run_files import NewerVersionError
from pipeline.steps.read import read_originals
from pipeline.storage.shards import expand_shards
from pipeline.storage.store import Store
from tests.committing import contents
from tests.pack.packing import draw, pack, packing, samples_of
from tests.samples import encode, pixels

ROOT = Path(__file__).resolve().parents[2]


def tree_of(folder: Path, count: int = 7) -> Path:
    draw(folder / "tree", [f"dog/{n}.png" for n in range(count)])
    return folder / "tree"


def test_shards_are_even_and_equal_in_every_run(tmp_path: Path) -> None:
    """Seven samples in shards of three at most: 2, 2 and 3. A copy of the images gives them too."""
    tree = tree_of(tmp_path)
    for output in ("one", "two"):
        pack(tmp_path / output, tree, samples_per_shard=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    shutil.copytree(tree, tmp_path / "copy", copy_function=shutil.copyfile)
    pack(tmp_path / "three", tmp_path / "copy", samples_per_shard=3)
    listed = expand_shards(f"{tmp_path}/one")
    assert [shard.name for shard in listed] == ["00000", "00001", "00002"]
    found = [read_originals(shard.read(), Input(shards="x")) for shard in listed]
    assert [len(samples) for samples in found] == [2, 2, 3]
    assert {sample.caption for samples in found for sample in samples} == {"a photo of a dog"}
    for shard in listed:
        other = tmp_path / f"three/{shard.name}.tar"
        assert other.read_bytes() == shard.read()


def test_the_same_command_again_writes_nothing_and_another_is_refused(tmp_path: Path) -> None:
    tree, out = tree_of(tmp_path), tmp_path / "out"
    pack(out, tree)
    written = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert pack(out, tree, max_left_out_share=0.5).samples == 7
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.tar")} == written
    again = "holds another pack"
    with pytest.raises(
        PackError, match=rf"{again} \(pack\.template: it has 'a photo of a {{class}}"
    ):
        make_pack_plan(packing(out, [tree], template="{class}"))
    (tree / "dog/0.png").write_bytes(encode(pixels(99)))
    with pytest.raises(PackError, match=rf"{again} \(other images or texts, or changed ones\)"):
        make_pack_plan(packing(out, [tree]))
    shutil.copytree(tree, tmp_path / "copy")
    with pytest.raises(PackError, match=r"holds something other than a pack, e\.g\. dog/0\.png"):
        make_pack_plan(packing(tmp_path / "copy", [tree]))
    for output in (tree / "out", tmp_path):
        with pytest.raises(PackError, match="must not contain each other"):
            make_pack_plan(packing(output, [tree]))


def test_a_damaged_shard_or_marker_is_written_anew(tmp_path: Path) -> None:
    """A marker of a newer version is not."""
    tree, out = tree_of(tmp_path), tmp_path / "out"
    pack(out, tree, samples_per_shard=3)
    whole = contents(out)
    (out / "00000.tar").write_bytes(b"cut")
    (out / "00001.tar").unlink()
    (out / "_pack/shards/00002.json").write_text("{")
    pack(out, tree, samples_per_shard=3)
    assert contents(out) == whole
    (out / "_pack/shards/00002.json").write_text('{"version": 9}')
    with pytest.raises(NewerVersionError):
        pack(out, tree, samples_per_shard=3)


def test_pack_resumes_after_a_kill_at_any_storage_call(tmp_path: Path) -> None:
    """After SIGKILL and a second run, the bytes equal those of an undisturbed pack."""
    command = [sys.executable, "-m", "tests.pack.crash_runner", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["bad"] == []
    assert {"after put 00001.tar", "before put _pack/summary.json"} <= set(found["points"])


def test_hostile_names_keep_samples_apart(tmp_path: Path) -> None:
    """Dots, line breaks, bytes that are not UTF-8, equal stems, leading underscores."""
    names = [
        *("d/a.png", "d/a.jpg", "d/a.b.png", "d/a%2Eb.png", "d/Ä ö.png", "d/new\nline.png"),
        *("__meta__/x.png", "-rf/--checkpoint.png", "d/.hidden.png", "d/a.jpg.png"),
    ]
    images = draw(tmp_path / "tree", names)
    odd = os.fsencode(tmp_path) + b"/tree/d/\xff.png"
    Path(os.fsdecode(odd)).write_bytes(encode(pixels(50)))
    pack(tmp_path / "out", tmp_path / "tree")
    samples = samples_of(tmp_path / "out")
    assert len(samples) == len(names)  # without the hidden one, and with the odd one
    sources = {json.loads(sample["json"])["pack"]["source"]: sample for sample in samples.values()}
    for name in set(names) - {"d/.hidden.png"}:
        assert sources[name][name.rpartition(".")[2]] == images[name]
    assert {"d/new%0Aline", "d/a%2Eb", "d/a%252Eb", "%5F_meta__/x", "d/%FF"} <= samples.keys()
    (shard,) = expand_shards(f"{tmp_path}/out/*.tar")
    assert len(read_originals(shard.read(), Input(shards="x"))) == len(samples)


def test_keys_of_equal_stems_are_their_whole_names() -> None:
    """Also where the whole name of one is the stem of another."""
    names = ["a.jpg", "a.png", "a.jpg.png", "b.png"]
    keys = unique_keys(names)
    assert keys == ["a%2Ejpg", "a%2Epng", "a%2Ejpg%2Epng", "b"]


def test_stores_are_read_and_written_by_url(tmp_path: Path) -> None:
    """From a bucket into a bucket: the tars of the same files on disk."""
    place = f"memory://{tmp_path}"
    for name, data in draw(tmp_path / "tree", ["dog/1.png", "cat/2.jpg"]).items():
        Store(f"{place}/tree").put(name, data)
    pack(f"{place}/out", f"{place}/tree")
    pack(tmp_path / "out", tmp_path / "tree")
    written = Store(f"{place}/out")
    assert written.get("00000.tar") == (tmp_path / "out/00000.tar").read_bytes()
    assert written.get("classes.json") == (tmp_path / "out/classes.json").read_bytes()


def test_the_command_says_what_is_left_out_and_what_is_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 if more is left out than is allowed; --dry-run writes nothing."""
    tree, out = tree_of(tmp_path), tmp_path / "out"
    draw(tree, ["stray.png"])
    assert main(["pack", str(out), str(tree), "--dry-run"]) == 0
    assert not out.exists()
    capsys.readouterr()
    assert main(["pack", str(out), str(tree)]) == 1
    shown = capsys.readouterr()
    assert "left out: 1: images outside of a class's folder, e.g. 'stray.png'" in shown.out
    assert "7 samples packed in 1 shards" in shown.out
    assert "12.50% of all; pack.max_left_out_share=0 allows 0.00%" in shown.err
    (line,) = [line for line in shown.out.splitlines() if line.startswith("next: ")]
    assert line.startswith(f"next: overpaint edit diffedit_sd15_512 'input.shards={out}/*.tar' ")
    assert "input.substitutions=" in line
    assert main(["pack", str(out), str(tree), "pack.max_left_out_share=0.2"]) == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["pack.captoin=text"], "pack.captoin: unknown key; did you mean 'caption'?"),
        (["caption=text"], "caption: unknown key"),
        (["pack.template=photo"], "it must have {class} in it"),
        (["pack.suffixes=[.JPG]"], "a suffix is written in lower case and without its dot"),
        (["pipe:x"], "pipe: urls run commands"),
        (["pack.images=pipe:x"], "pipe: urls run commands"),
    ],
)
def test_a_wrong_setting_is_named(
    words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and nothing is written."""
    tree = tree_of(tmp_path)
    (tree / "captions.csv").write_text("file_name,text\ndog/1.png,x\n")
    assert main(["pack", str(tmp_path / "out"), str(tree), *words]) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_and_sources_stand_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    """A source is what has no key and no ``=`` at its beginning."""
    options = parse_arguments(["pack", "out", "pack.image=a", "x", "--dry-run", "pack.caption=b"])
    assert (options.output, options.sources) == ("out", ["x"])
    assert options.overrides == ["pack.image=a", "pack.caption=b"]
    with pytest.raises(SystemExit):
        parse_arguments(["pack", "out", "pack.image=a"])
    assert "pack needs a source" in capsys.readouterr().err
