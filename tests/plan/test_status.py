"""The status of an output, and warnings about inputs that have changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.plan.inputs import changed_inputs
from pipeline.plan.run_folder import write_run_folder
from pipeline.plan.status import read_status
from pipeline.records.run_files import RunFileError
from pipeline.storage.saved_inputs import saved_inputs
from pipeline.storage.store import Store
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Three shards of three edits each."""
    for number in range(3):
        write_shard(
            tmp_path / f"in/{number}.tar",
            [raw_sample("a", ["1", "2"]), raw_sample("b", ["bad"], seed=1)],
        )
    return f"{tmp_path}/in/*.tar"


@pytest.fixture
def output(shards: str, tmp_path: Path) -> Store:
    """An output with one shard done, one partly staged, and one to do."""
    plan = fake_plan(shards, f"{tmp_path}/out")
    run_fake(plan, failing=["bad"])
    store = plan.output
    for name in ("1_stats.json", "2_stats.json", "2.tar", "2.parquet"):
        store.delete(name)
    store.put("_parts/1/00000-of-00002.arrow", b"a part")
    return store


def test_status_counts_done_staged_and_to_do(output: Store) -> None:
    """It needs only storage; failed rows of published shards are counted."""
    status = read_status(output)
    assert status.states == {"done": 1, "staged": 1, "to do": 1}
    done, staged, to_do = status.shards
    assert (done.shard, done.state, done.edits, done.failed) == ("0", "done", 3, 1)
    assert (staged.shard, staged.state, staged.staged_parts, staged.num_parts) == (
        *("1", "staged"),
        *(1, 2),
    )
    assert (to_do.shard, to_do.state, to_do.num_parts) == ("2", "to do", None)


def test_status_prints_a_table_or_json(output: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Both have the same content; storage options are accepted."""
    assert main(["status", output.url, "--json", "--storage-option", "auto_mkdir=true"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["states"] == {"done": 1, "staged": 1, "to do": 1}
    assert (tree["edits"], tree["failed"]) == (3, 1)
    assert [shard["shard"] for shard in tree["shards"]] == ["0", "1", "2"]
    assert main(["status", output.url]) == 0
    printed = capsys.readouterr().out
    assert "3 shards: 1 done, 1 staged, 1 to do; 3 edits" in printed
    assert "1 failed edits" in printed


@pytest.mark.parametrize(
    ("again", "never", "advice"),
    [
        (0, 0, []),
        (2, 0, ["2 failed edits: overpaint edit ... --retry-failed"]),
        (
            *(2, 1),
            [
                "3 failed edits: overpaint edit ... --retry-failed recomputes 2",
                "the other 1 would fail again; ",
            ],
        ),
        (0, 1, ["1 failed edits, which would fail again; "]),
    ],
)
def test_status_recommends_retry_failed_for_what_it_retries(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    again: int,
    never: int,
    advice: list[str],
) -> None:
    """An invalid image fails again; --retry-failed leaves it as it is."""
    samples = [raw_sample("good")]
    samples += [raw_sample(f"lost{n}", ["bad"]) for n in range(again)]
    samples += [raw_sample(f"broken{n}", png=b"no image") for n in range(never)]
    write_shard(tmp_path / "in/0.tar", samples)
    run_fake(fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out"), failing=["bad"])
    assert main(["status", f"{tmp_path}/out"]) == 0
    said = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "fail again" in line or "failed edits" in line
    ]
    assert len(said) == len(advice)
    assert all(line.startswith(words) for line, words in zip(said, advice, strict=True))


def test_status_without_an_output_is_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So is verify of a refused url."""
    assert main(["status", f"{tmp_path}/nowhere"]) == 2
    assert capsys.readouterr().err.strip() == (
        f"overpaint: {tmp_path}/nowhere: no run has written here"
    )
    assert main(["verify", "pipe:cat"]) == 2
    assert "pipe: urls" in capsys.readouterr().err


def test_status_reports_a_marker_that_cannot_be_read(output: Store) -> None:
    """Status continues; ``verify`` is the audit."""
    output.put("0_stats.json", b"{")
    assert read_status(output).shards[0].problem == "the marker cannot be read"


def test_inputs_are_recorded_without_credentials(output: Store, shards: str) -> None:
    """Each entry has name, url, size and etag, and nothing else."""
    entries = json.loads(output.get("_run/inputs.json"))
    assert [entry["name"] for entry in entries] == ["0", "1", "2"]
    assert {tuple(sorted(entry)) for entry in entries} == {("etag", "name", "size", "url")}
    assert entries[0]["size"] == os.path.getsize(entries[0]["url"])


def test_inputs_json_gains_new_shards_and_drops_removed_ones(
    shards: str, output: Store, tmp_path: Path
) -> None:
    """A removed shard stays recorded if the output holds anything of it."""
    write_shard(tmp_path / "in/3.tar", [raw_sample("c")])
    for number in (0, 2):  # 0 is published; the output holds nothing of 2
        (tmp_path / f"in/{number}.tar").unlink()
    write_run_folder(fake_plan(shards, output.url))
    assert list(saved_inputs(output)) == ["0", "1", "3"]


@pytest.mark.parametrize("field", ["name", "url", "etag"])
def test_half_a_surrogate_pair_in_inputs_json_is_damage(field: str, output: Store) -> None:
    """It could not be written again; a byte that is not UTF-8 could."""
    entry = {"name": "0", "url": "in/0.tar", "size": 1, "etag": None}
    output.put("_run/inputs.json", json.dumps([entry | {field: "a\ud800"}]).encode())
    with pytest.raises(RunFileError, match=r"inputs\.json: is damaged"):
        saved_inputs(output)
    output.put("_run/inputs.json", json.dumps([entry | {field: "a\udcff"}]).encode())
    assert list(saved_inputs(output)) == ["a\udcff" if field == "name" else "0"]


def test_a_changed_input_of_a_published_shard_has_a_warning(
    shards: str, output: Store, tmp_path: Path
) -> None:
    """Every run repeats the warning until the shard is recomputed."""
    assert changed_inputs(fake_plan(shards, output.url)) == []
    for number in range(3):
        write_shard(tmp_path / f"in/{number}.tar", [raw_sample("a", ["1"])])
    for _ in range(2):
        plan = fake_plan(shards, output.url)
        published, staged = changed_inputs(plan)
        assert published.startswith("shard 0: the input has changed since it was read")
        assert "remove 0_stats.json" in published
        assert staged.startswith("shard 1: ")
        assert "remove _parts/1/" in staged
        write_run_folder(plan)
    output.delete("0_stats.json")
    plan = fake_plan(shards, output.url)
    write_run_folder(plan)
    assert [line[:8] for line in changed_inputs(plan)] == ["shard 1:"]
