"""``refilter``: other thresholds for published shards, as if they had been there from the start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.commands.refilter import refilter_output
from pipeline.config.filters import filtering_of
from pipeline.config.load import ConfigError
from pipeline.execution.local_loop import run_loop
from pipeline.plan.filters import FILTERS_FILE, changed_filters, read_filters
from pipeline.plan.plan import Plan
from pipeline.records.part import Part
from pipeline.report.page import REPORT_FILE, write_report
from pipeline.republish.refilter import preview, refilter
from pipeline.republish.retry_failed import reopen_failed
from pipeline.steps.marker import read_marker
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.committing import GRID, invert
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard

Planner = Callable[..., Plan]
NONE: list[str] = []
SMALL, TINY = ["mask_area <= 0.5"], ["mask_area <= 0.2"]


def with_areas(part: Part) -> Part:
    """Inverts images; the mask's area grows with the number at the end of the edit text."""
    for edit in invert(part).edits:
        if edit.image is not None and edit.mask is not None:
            edit.mask = np.zeros((GRID, GRID), np.float32)
            edit.mask[: int(str(edit.edit_text)[-1])] = 1
    return part


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    """Plans over two shards: edits with mask areas of 1/4 to 3/4, an unchanged and failed ones."""
    first = [
        raw_sample("a", ["x 1", "x 2", "x 3"], seed=1, cls="7"),
        raw_sample("b", ["a dog"], seed=2),
    ]
    write_shard(tmp_path / "in/0.tar", [*first, raw_sample("c", ["x 1"], seed=3)])
    write_shard(tmp_path / "in/1.tar", [raw_sample("e", png=b"no image"), raw_sample("f", ["x 3"])])

    def plan(folder: str, filters: list[str], **sections: Any) -> Plan:
        path = f"{tmp_path}/{folder}"
        return fake_plan(f"{tmp_path}/in/*.tar", path, filters=filters, **sections)

    return plan


def done(plan: Plan, **options: object) -> Store:
    run_fake(plan, edit=with_areas, **options)  # type: ignore[arg-type]
    return plan.output


def published(store: Store) -> dict[str, bytes]:
    """Every tar and Parquet file, and the filters in force."""
    names = [name for name in store.list() if name.endswith((".tar", ".parquet", "filters.json"))]
    return {name: store.get(name) for name in names}


def statuses(store: Store) -> dict[str, str]:
    rows = [row for n in ("0", "1") for row in rows_of(store, n)]
    return {f"{row['key']} {row['edit_text']}": row["status"] for row in rows}


def rows_of(store: Store, shard: str) -> list[dict]:
    return pq.read_table(f"{store.url}/{shard}.parquet").to_pylist()


def test_rejected_rows_keep_scores_reason_and_images(planner: Planner) -> None:
    """In = edited + unchanged + rejected + failed; rejected images stand in their own tar."""
    store = done(planner("out", SMALL))
    row = next(row for row in rows_of(store, "0") if row["edit_text"] == "x 3")
    assert (row["status"], row["stage"], row["error"]) == ("rejected", "filter", SMALL[0])
    assert row["message"] == "mask_area <= 0.5: it is 0.75"
    assert (row["mask_area"], row["output_key"]) == (0.75, "a_2")
    assert row["score_background_psnr_db"] is not None
    marker = read_marker(store, "0")
    assert marker is not None
    assert marker.counts == {"edited": 3, "unchanged": 1, "rejected": 1, "skipped": 0, "failed": 0}
    assert marker.rejections == {SMALL[0]: 1}
    assert "_rejected/0.tar" in store.list()
    assert verify(store).problems == []


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(("before", "after"), [(NONE, SMALL), (SMALL, TINY)])
def test_tightened_filters_give_the_bytes_of_a_run_with_them(
    planner: Planner, keep: bool, before: list[str], after: list[str]
) -> None:
    """Every object of the output is that of a run which had the new filters from the start."""
    output = {"output": {"keep_rejected": keep}}
    clean = done(planner("clean", after, **output))
    store = done(planner("out", before, **output))
    assert published(store) != published(clean)
    done_now = refilter(store, filtering_of(after, keep_rejected=keep))
    assert (done_now.shards, done_now.problems) == (["0", "1"], [])
    assert published(store) == published(clean)
    assert set(store.list()) == set(clean.list())
    assert verify(store).problems == []


@pytest.mark.parametrize(("before", "after"), [(SMALL, NONE), (TINY, SMALL), (TINY, NONE)])
def test_loosened_filters_bring_the_images_back(
    planner: Planner, before: list[str], after: list[str]
) -> None:
    """Likewise, from the tar of rejected images, which goes where nothing is rejected."""
    clean, store = done(planner("clean", after)), done(planner("out", before))
    assert refilter(store, filtering_of(after)).problems == []
    assert published(store) == published(clean)
    assert set(store.list()) == set(clean.list())
    assert verify(store).problems == []
    markers = [json.loads(s.get("0_stats.json")) for s in (store, clean)]
    for marker in markers:
        assert marker.pop("published_at")
        assert marker.pop("digest")
        marker["seconds"] = sorted(marker["seconds"])
    assert markers[0] == markers[1]


def test_nothing_is_computed_and_the_input_is_not_read(planner: Planner, tmp_path: Path) -> None:
    """The input may be gone."""
    store, clean = done(planner("out", NONE)), done(planner("clean", TINY))
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    refilter(store, filtering_of(TINY))
    assert published(store) == published(clean)


def test_a_shard_whose_rows_stay_keeps_its_tars(planner: Planner) -> None:
    """Another threshold that rejects nobody else costs a marker."""
    store = done(planner("out", NONE))
    before = published(store)
    assert refilter(store, filtering_of(["mask_area <= 0.8"])).shards == []
    after = published(store)
    assert before.pop(FILTERS_FILE) != after.pop(FILTERS_FILE)
    assert before == after
    assert verify(store).problems == []


def test_a_run_with_other_filters_is_refused_and_told_what_to_do(planner: Planner) -> None:
    """Neither fingerprint nor parts change with the filters, so the run says what does."""
    done(planner("out", SMALL))
    with pytest.raises(ConfigError, match=r"overpaint refilter .*/out --clear --set 'mask_area"):
        planner("out", TINY)
    assert planner("out", SMALL).fingerprint == planner("other", TINY).fingerprint


def test_an_interrupted_refilter_is_finished_by_a_run(planner: Planner) -> None:
    """Killed between two shards: the next run with the new filters goes on."""
    store, clean = done(planner("out", SMALL)), done(planner("clean", TINY))

    class Killed(BaseException):
        pass

    def kill(when: str, operation: str, name: str) -> None:
        if (when, operation, name) == ("before", "delete", "1_stats.json"):
            raise Killed

    Store.hook = kill
    try:
        with pytest.raises(Killed):
            refilter(store, filtering_of(TINY))
    finally:
        Store.hook = None
    assert any("not applied to all" in line for line in verify(store).problems)
    done(planner("out", TINY))
    assert published(store) == published(clean)
    assert verify(store).problems == []


def test_failed_rows_of_a_filtered_run_are_retried(planner: Planner) -> None:
    """Taking a shard apart for ``--retry-failed`` takes its filters off first."""
    clean = done(planner("clean", SMALL))
    done(planner("out", SMALL), failing=["x 2"])
    reopened = reopen_failed(planner("out", SMALL))
    assert reopened.problems == []
    assert published(done(reopened.plan)) == published(clean)


def test_images_that_were_not_kept_cannot_come_back(planner: Planner, tmp_path: Path) -> None:
    """Refused before anything is touched, by the command; the function leaves the shard whole."""
    store = done(planner("out", SMALL, output={"keep_rejected": False}))
    assert not store.list("_rejected/")
    before = {name: store.get(name) for name in store.list()}
    assert preview(store, filtering_of(NONE, keep_rejected=False)).lost == 2
    with pytest.raises(
        ConfigError, match="2 rejected edits would pass, but their images were not kept"
    ):
        refilter_output(f"{tmp_path}/out", [], given=[], dropped=[], clear=True, dry_run=False)
    assert {name: store.get(name) for name in store.list()} == before


def test_the_command_changes_what_it_names(
    planner: Planner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Config, summary, report and filters in force follow; a dry run changes nothing."""
    store = done(planner("out", SMALL))
    write_report(store)
    arguments = {"given": ["mask_area <= 0.2"], "dropped": [], "clear": False}
    before = {name: store.get(name) for name in store.list()}
    assert refilter_output(f"{tmp_path}/out", [], **arguments, dry_run=True) == 0  # type: ignore[arg-type]
    assert {name: store.get(name) for name in store.list()} == before
    assert refilter_output(f"{tmp_path}/out", [], **arguments, dry_run=False) == 0  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert "2 shards published again, 0 problems" in printed
    assert f"report: {tmp_path}/out/_run/report.html (" in printed
    in_force = read_filters(store)
    assert in_force is not None
    assert (in_force.filters, in_force.applied) == (TINY, True)
    assert json.loads(store.get("_run/summary.json"))["counts"]["rejected"] == 5
    assert b"mask_area <= 0.2" in store.get("_run/config.yaml")
    page = store.get(REPORT_FILE).decode()
    assert "<dt>filters</dt><dd>mask_area &lt;= 0.2</dd>" in page
    assert "filter: mask_area &lt;= 0.2" in page
    assert "mask_area &lt;= 0.5" not in page
    with pytest.raises(ConfigError, match=r"configure scores\.clip"):
        refilter_output(
            f"{tmp_path}/out", [], given=["clip_image > 0"], dropped=[], clear=False, dry_run=False
        )
    with pytest.raises(ConfigError, match="no run has written here"):
        refilter_output(f"{tmp_path}/no", [], given=[], dropped=[], clear=False, dry_run=False)


def test_a_damaged_shard_stays_and_is_named(planner: Planner) -> None:
    """The others get the new filters; the file says that not all have them."""
    store = done(planner("out", NONE))
    store.put("0.tar", store.get("0.tar") + bytes(512))
    found = refilter(store, filtering_of(TINY))
    assert found.shards == ["1"]
    assert found.problems == [
        "shard 0: not published with the new filters: 0.tar is not what its marker says"
    ]
    assert not json.loads(store.get(FILTERS_FILE))["applied"]


def test_changes_replace_the_bound_of_the_same_side() -> None:
    """--set replaces, --drop removes, --clear begins anew."""
    current = ["edit_rms > 0.1", "mask_area <= 0.5", "mask_area >= 0.1"]
    assert changed_filters(current, given=["mask_area < 0.4"]) == [
        "edit_rms > 0.1",
        "mask_area < 0.4",
        "mask_area >= 0.1",
    ]
    assert changed_filters(current, dropped=["score_mask_area"]) == ["edit_rms > 0.1"]
    assert changed_filters(current, given=["edit_rms > 0.2"], clear=True) == ["edit_rms > 0.2"]
    with pytest.raises(ValueError, match="on 'lpips' is in force; there are filters on: edit_rms"):
        changed_filters(current, dropped=["lpips"])


def test_progress_counts_what_is_published(planner: Planner) -> None:
    """What the driver hears of a part has the filters applied."""
    heard: list[dict[str, int]] = []
    with mock.patch("pipeline.stages.build.load_stages", return_value={"decode": with_areas}):
        run_loop(planner("out", TINY), lambda result: heard.append(result.counts))
    assert sum(counts.get("rejected", 0) for counts in heard) == 5
