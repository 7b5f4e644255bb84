"""A mix of real outputs: splits, what is left out, and resuming."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from pipeline.config.filters import filtering_of
from pipeline.config.mix import Mix
from pipeline.mix import mix as mix_module
from pipeline.mix.mix import run_mix
from pipeline.mix.plan import make_mix_plan
from pipeline.mix.survey import MixError
from pipeline.plan.run_folder import resolved_yaml
from pipeline.records.run_files import sealed_json
from pipeline.republish.refilter import refilter
from pipeline.storage.archive import read_members
from pipeline.storage.store import Store
from tests.committing import contents, make_config, run
from tests.samples import raw_sample, write_shard

TEXTS = ["a cat", "a fox", "a dog"]  # the last one is the caption: unchanged
SPLITS = {"train": 0.7, "val": 0.3}
ROOT = Path(__file__).resolve().parents[2]


def make_outputs(folder: Path, *, shards: int = 3, images: int = 8) -> None:
    """Writes originals and an output of a fake edit; each shard has a broken image and a twin."""
    for shard in range(shards):
        samples: list[dict[str, Any]] = [
            raw_sample(f"k{shard}.{n}", TEXTS, seed=100 * shard + n, cls="7") for n in range(images)
        ]
        samples.append(raw_sample("broken", png=b"no image", cls="7"))
        samples.append(
            raw_sample("twin", ["a cat"], seed=7, cls="7")
        )  # the same bytes in every shard
        write_shard(folder / f"in/{shard:02d}.tar", samples)
    config = make_config(f"{folder}/in/*.tar", input={"key_split": "suffix"})
    run(config, Store(str(folder / "out")))


def test_mix_from_another_folder_names_the_key_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run named its input relative to the folder that it was started in."""
    make_outputs(tmp_path, shards=1, images=2)
    saved = "input: {shards: in/*.tar, key_split: suffix}\noutput: {path: out}\n"
    (tmp_path / "out/_run/config.yaml").write_text(saved)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    command = ["mix", f"{tmp_path}/mixed", "--edited", f"{tmp_path}/out", "--dry-run"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "nothing matches 'in/*.tar'" in error
    assert f"{tmp_path}/out names its input relative to the folder where it was run" in error
    assert "give input.shards= with the path of the originals" in error
    assert main([*command, f"input.shards={tmp_path}/in/*.tar"]) == 0
    capsys.readouterr()
    assert main([*command, "input.shards=in/*.tar"]) == 2
    assert "relative to the folder where it was run" not in capsys.readouterr().err


def settings(folder: Path, output: str = "mixed", **changes: Any) -> Mix:
    tree = {
        "input": {"shards": f"{folder}/in/*.tar", "key_split": "suffix"},
        "edited": {"paths": [f"{folder}/out"]},
        "output": {"path": f"{folder}/{output}"},
        "splits": SPLITS,
    }
    return Mix.model_validate(tree | changes)


def mixed_samples(folder: Path, output: str = "mixed") -> dict[tuple[str, str, str], dict]:
    """The members of every sample by (split, shard, key)."""
    found: dict[tuple[str, str, str], dict] = {}
    for path in sorted((folder / output).glob("*/*.tar")):
        members, problem = read_members(path.read_bytes())
        assert problem is None
        for name, data in members:
            key, _, suffix = name.partition(".")
            found.setdefault((path.parent.name, path.stem, key), {})[suffix] = data
    return found


def record(members: dict) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(members["json"])["mix"]
    return found


def test_a_mix_accounts_for_every_image_and_every_edit(tmp_path: Path) -> None:
    """The ratio holds, everything left out is counted, and texts and classes are right."""
    make_outputs(tmp_path)
    plan = make_mix_plan(settings(tmp_path, ratio=0.5, labels={"cat": 1, "fox": 2}))
    manifest = run_mix(plan)
    samples = mixed_samples(tmp_path)
    kinds = Counter((split, record(members)["kind"]) for (split, _, _), members in samples.items())
    train = manifest["splits"]["train"]
    assert kinds["train", "original"] == train["original"]
    assert kinds["train", "edited"] == train["edited"] == train["edited_wanted"]
    assert abs(train["edited"] - 0.5 * train["original"]) <= 0.5
    assert kinds["val", "original"] == manifest["splits"]["val"]["original"] > 0
    assert kinds["val", "edited"] == 0

    assert manifest["pictures"] == {"all": 30, "left_out": {"prepare: NotAnImage": 3}}
    edits = manifest["edits"]
    assert edits["all"] == 3 * (8 * 3 + 1 + 1)
    assert edits["left_out"]["unchanged"] == 3 * 8
    assert edits["left_out"]["failed"] == 3
    assert edits["left_out"]["the source image is in val"] > 0
    assert sum(edits["left_out"].values()) + train["edited"] == edits["all"]

    classes = {"a cat": b"1", "a fox": b"2"}
    for members in samples.values():
        if record(members)["kind"] == "original":
            assert (members["txt"], members["cls"]) == (b"a dog", b"7")
            assert {"png", "json"} < members.keys()
        else:
            assert members["cls"] == classes[members["txt"].decode()]
            assert json.loads(members["json"])["fingerprint"] == "f00d"
            assert "mask.png" in members


def test_no_source_image_is_in_two_splits(tmp_path: Path) -> None:
    """Equal image bytes are in one split, even under another key or in another shard."""
    make_outputs(tmp_path, shards=4)
    run_mix(make_mix_plan(settings(tmp_path, ratio=10, edits_in=["train", "val"])))
    splits: dict[str, set[str]] = {}
    keys: dict[str, set[str]] = {}
    for (split, shard, _), members in mixed_samples(tmp_path).items():
        details = record(members)
        assert (details["split"], details["shard"]) == (split, shard)
        splits.setdefault(details["source_sha256"], set()).add(split)
        keys.setdefault(details["source_sha256"], set()).add(f"{shard}/{details['key']}")
    assert all(len(found) == 1 for found in splits.values())
    assert max(len(found) for found in keys.values()) == 5  # four twins, and k0.7
    assert {name for found in splits.values() for name in found} == {"train", "val"}


def test_bytes_do_not_depend_on_workers_and_a_second_run_writes_nothing(tmp_path: Path) -> None:
    """One and three workers give equal bytes, and a second run writes only the manifest."""
    make_outputs(tmp_path)
    run_mix(make_mix_plan(settings(tmp_path, workers=1)))
    run_mix(make_mix_plan(settings(tmp_path, "other", workers=3)))
    first = contents(tmp_path / "mixed")
    assert contents(tmp_path / "other") == first
    written = []
    Store.hook = lambda when, operation, name: written.append((operation, name))
    try:
        run_mix(make_mix_plan(settings(tmp_path)))
    finally:
        Store.hook = None
    assert {name for operation, name in written if operation == "put"} == {"manifest.json"}
    assert contents(tmp_path / "mixed") == first
    run_mix(make_mix_plan(settings(tmp_path, "seeded", seed=1)))
    assert contents(tmp_path / "seeded") != first


def test_missing_edits_are_reported_and_compensated_by_a_weight(tmp_path: Path) -> None:
    """With a ratio of 3 and too few edits, all are taken and their weight is above 1."""
    make_outputs(tmp_path)
    manifest = run_mix(make_mix_plan(settings(tmp_path, ratio=3, splits={"all": 1})))
    found = manifest["splits"]["all"]
    assert found["edited"] == found["edited_available"] < found["edited_wanted"]
    assert found["weight_of_an_edit"] == pytest.approx(
        found["edited_wanted"] / found["edited"], abs=1e-6
    )
    weights = {
        (item["kind"], item["weight"]) for item in map(record, mixed_samples(tmp_path).values())
    }
    assert weights == {("original", 1.0), ("edited", found["weight_of_an_edit"])}


def test_several_outputs_are_one_pool(tmp_path: Path) -> None:
    """Two outputs of the same input are mixed, with unique keys for the edits of each."""
    make_outputs(tmp_path)
    config = make_config(f"{tmp_path}/in/*.tar", input={"key_split": "suffix"})
    run(config, Store(str(tmp_path / "second")))
    both = {"paths": [f"{tmp_path}/out", f"{tmp_path}/second"]}
    run_mix(make_mix_plan(settings(tmp_path, edited=both, ratio=10, splits={"train": 1})))
    counts = Counter(item.get("output") for item in map(record, mixed_samples(tmp_path).values()))
    assert counts[0] == counts[1] == 3 * (8 * 2 + 1)


def test_inputs_that_do_not_match_are_refused(tmp_path: Path) -> None:
    """Other originals, an unfinished run, another mix in the output, and nested outputs."""
    make_outputs(tmp_path)
    run_mix(make_mix_plan(settings(tmp_path)))
    with pytest.raises(MixError, match=r"holds another mix.*ratio"):
        make_mix_plan(settings(tmp_path, ratio=2))
    with pytest.raises(MixError, match="must not contain each other"):
        make_mix_plan(settings(tmp_path, "out/mixed"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/todo.txt").write_text("none of ours")
    with pytest.raises(MixError, match="holds something other than a mix"):
        make_mix_plan(settings(tmp_path, "notes"))
    write_shard(tmp_path / "in/99.tar", [raw_sample("late")])
    with pytest.raises(MixError, match="1 of 4 input shards have no edits yet"):
        make_mix_plan(settings(tmp_path, "new"))
    one = {"shards": f"{tmp_path}/in/00.tar", "key_split": "suffix"}
    with pytest.raises(MixError, match="2 shards are published that"):
        make_mix_plan(settings(tmp_path, "new", input=one))
    (tmp_path / "in/99.tar").unlink()
    write_shard(tmp_path / "in/00.tar", [raw_sample("k0.0", seed=55)])
    with pytest.raises(MixError, match=r"'k0\.0' is not the image that was edited"):
        run_mix(make_mix_plan(settings(tmp_path, "new")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "point"),
    [
        ("webdataset", "after put train/00.tar"),
        ("coco", "after put annotations/instances_train.json"),
        # the others differ from these in names alone
        pytest.param("pairs", "after put train/00.parquet", marks=pytest.mark.sweep),
        pytest.param("parquet", "after put train/00.parquet", marks=pytest.mark.sweep),
        pytest.param("yolo", "after put data.yaml", marks=pytest.mark.sweep),
        pytest.param("imagefolder", "after put train/metadata.jsonl", marks=pytest.mark.sweep),
    ],
)
def test_mix_resumes_after_a_kill_at_any_storage_call(
    tmp_path: Path, form: str, point: str
) -> None:
    """After SIGKILL and a second run, the bytes equal those of an undisturbed mix."""
    command = [sys.executable, "-m", "tests.mix.crash_runner", str(tmp_path), form]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["bad"] == []
    assert {point, "before put manifest.json"} <= set(found["points"])


def test_command_uses_the_runs_input_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`overpaint mix` needs only the output; it warns about classes; --dry-run writes nothing."""
    make_outputs(tmp_path)
    config = make_config(f"{tmp_path}/in/*.tar", input={"key_split": "suffix"})
    Store(str(tmp_path / "out")).put("_run/config.yaml", resolved_yaml(config).encode())
    command = ["mix", f"{tmp_path}/mixed", "--edited", f"{tmp_path}/out", "ratio=0.5"]
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "mixed").exists()
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "edits keep the .cls of their source" in printed
    assert "images left out: 3: prepare: NotAnImage" in printed
    assert (tmp_path / "mixed/manifest.json").is_file()
    assert main([*command, "splits={train: 0.5}"]) == 2
    assert (
        "splits={'train': 0.5}: shares must be above 0 and add up to 1" in capsys.readouterr().err
    )


def test_an_output_that_changes_during_the_mix_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running again would not help, and is not advised; the mix names another folder."""
    make_outputs(tmp_path)
    config = make_config(f"{tmp_path}/in/*.tar", input={"key_split": "suffix"})
    Store(str(tmp_path / "out")).put("_run/config.yaml", resolved_yaml(config).encode())
    mix = mix_module.run_mix

    def run_mix(*arguments: Any) -> Any:
        output = Store(str(tmp_path / "out"))
        assert refilter(output, filtering_of(["edit_rms >= 0.39"])).problems == []
        return mix(*arguments)

    monkeypatch.setattr("jobs.commands.mix.run_mix", run_mix)
    assert main(["mix", f"{tmp_path}/mixed", "--edited", f"{tmp_path}/out"]) == 1
    error = capsys.readouterr().err
    assert "the edited output has changed during the mix" in error
    assert "mix into another folder" in error
    assert "resume" not in error


def test_sample_that_was_not_decoded_is_left_out_with_its_reason(tmp_path: Path) -> None:
    """Without caption or edit text, or with a damaged JSON, its image was never decoded."""
    samples = [
        raw_sample("good", ["a cat"]),
        raw_sample("mute", ["a cat"], caption=None, seed=1),
        raw_sample("idle", [], seed=2),
        raw_sample("odd", ["a cat"], seed=3, json="{"),
    ]
    write_shard(tmp_path / "in/00.tar", samples)
    run(make_config(f"{tmp_path}/in/*.tar"), Store(str(tmp_path / "out")))
    manifest = run_mix(make_mix_plan(settings(tmp_path, splits={"train": 1.0})))
    reasons = {"read: BadJson": 1, "read: NoCaption": 1, "read: NoEditText": 1}
    assert manifest["pictures"] == {"all": 4, "left_out": reasons}
    assert manifest["splits"]["train"]["original"] == 1


def test_original_that_only_one_of_the_outputs_has_edited_is_used(tmp_path: Path) -> None:
    """The runs have different substitutions, so the first has no edit text for the cow."""
    samples = [
        raw_sample("cow", [], caption="a cow"),
        raw_sample("dog", [], caption="a dog", seed=1),
    ]
    write_shard(tmp_path / "in/00.tar", samples)
    for word in ("dog", "cow"):
        config = make_config(f"{tmp_path}/in/*.tar", input={"substitutions": {word: ["cat"]}})
        run(config, Store(str(tmp_path / word)))
    mix = settings(
        tmp_path,
        input={"shards": f"{tmp_path}/in/*.tar", "substitutions": {"dog": ["cat"]}},
        edited={"paths": [str(tmp_path / "dog"), str(tmp_path / "cow")]},
        splits={"train": 1.0},
    )
    manifest = run_mix(make_mix_plan(mix))
    assert manifest["pictures"] == {"all": 2, "left_out": {}}
    assert set(mixed_samples(tmp_path)) == {
        ("train", "00", name)
        for name in ("cow_original", "dog_original", "dog_edited0_0", "cow_edited1_0")
    }


CLASSES = {"dog": 0, "cat": 1, "fox": 2}


def make_captioned(folder: Path) -> None:
    """Five originals: two with a class in their caption, one with its own, and two with none."""
    captions = {"a": "a dog", "b": "a cat", "own": "a cow", "none": "a cow", "two": "a dog, a cat"}
    write_shard(
        folder / "in/00.tar",
        [
            raw_sample(key, ["a fox", "a bird"], caption=caption, seed=number)
            | ({"cls": "7"} if key == "own" else {})
            for number, (key, caption) in enumerate(captions.items())
        ],
    )
    config = make_config(f"{folder}/in/*.tar", input={"key_split": "suffix"})
    run(config, Store(str(folder / "out")))


def test_originals_take_their_class_from_their_caption(tmp_path: Path) -> None:
    """By the same words as edits; their own class stays; without any they are left out."""
    make_captioned(tmp_path)
    mix = settings(tmp_path, splits={"train": 1}, labels=CLASSES, ratio=0.5)
    plan = make_mix_plan(mix)
    assert (plan.total("images", "train"), plan.wanted("train")) == (3, 2)
    manifest = run_mix(plan)
    assert manifest["pictures"] == {
        "all": 5,
        "left_out": {
            "no word of labels in the caption": 1,
            "words of several labels in the caption": 1,
        },
    }
    assert manifest["splits"]["train"]["original"] == 3
    samples = mixed_samples(tmp_path)
    classes = {
        record(members)["key"]: members["cls"]
        for members in samples.values()
        if record(members)["kind"] == "original"
    }
    assert classes == {"a": b"0", "b": b"1", "own": b"7"}
    edits = [members for members in samples.values() if record(members)["kind"] == "edited"]
    assert [members["cls"] for members in edits] == [b"2"] * 2
    assert manifest["edits"]["left_out"]["no word of labels in the edit text"] == 5


def test_an_edit_of_an_original_without_a_class_is_taken(tmp_path: Path) -> None:
    """It has a class of its own, and its source's split."""
    make_captioned(tmp_path)
    mix = settings(tmp_path, splits={"train": 1}, labels=CLASSES, ratio=10)
    run_mix(make_mix_plan(mix))
    names = {key for _, _, key in mixed_samples(tmp_path)}
    assert {"none_edited0_0", "two_edited0_0"} <= names
    assert not {"none_original", "two_original"} & names


def test_without_labels_originals_stay_as_they_are(tmp_path: Path) -> None:
    """None is left out, and none is given a class."""
    make_captioned(tmp_path)
    manifest = run_mix(make_mix_plan(settings(tmp_path, splits={"train": 1})))
    assert manifest["pictures"] == {"all": 5, "left_out": {}}
    with_class = {key for (_, _, key), members in mixed_samples(tmp_path).items()
                  if "cls" in members and key.endswith("original")}  # fmt: skip
    assert with_class == {"own_original"}


def test_a_mix_that_another_version_began_is_not_resumed(tmp_path: Path) -> None:
    """It chose and labeled in another way, and the message does not blame the outputs."""
    make_captioned(tmp_path)
    mix = settings(tmp_path)
    run_mix(make_mix_plan(mix))
    path = tmp_path / "mixed/_mix/plan.json"
    path.write_bytes(sealed_json(json.loads(path.read_text()) | {"version": 1}))
    with pytest.raises(MixError, match=r"holds another mix \(written by another version"):
        make_mix_plan(mix)
