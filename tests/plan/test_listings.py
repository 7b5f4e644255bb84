"""Runs with very many shards: how often stores are listed, and how long planning takes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from unittest import mock

import pytest

from pipeline.plan.fingerprint import fingerprint
from pipeline.plan.inputs import changed_inputs
from pipeline.plan.run_folder import write_run_folder
from pipeline.republish.retry_failed import publish_staged
from pipeline.storage.bucket import Bucket
from pipeline.storage.local_folder import Stat
from pipeline.storage.readers import WINDOW, in_threads
from pipeline.storage.store import Store
from tests.fake_job import fake_plan


@pytest.mark.parametrize("shards", ["/in/*.tar", "/in"])
def test_input_and_output_are_listed_once_before_a_run(shards: str) -> None:
    """A listing of a million objects takes a minute, so later steps use the plan's."""
    folder = f"memory://{uuid.uuid4().hex}"
    for name in ("in/0.tar", "in/1.tar", "in/2.tar", "out/0_stats.json"):
        Store(folder).put(name, b"")
    same = mock.patch(
        "pipeline.plan.plan.same_run",
        lambda config, saved, inputs, _: (fingerprint(inputs), inputs),
    )
    with same:
        write_run_folder(fake_plan(folder + shards, f"{folder}/out"))
    each, listed = Bucket.each, []

    def counted(self: Bucket, prefix: str, **options: bool) -> Iterator[tuple[str, Stat]]:
        listed.append(self.root.rpartition("/")[2])
        return each(self, prefix, **options)

    with mock.patch.object(Bucket, "each", counted):
        plan = fake_plan(folder + shards, f"{folder}/out")
        assert changed_inputs(plan) == []
        write_run_folder(plan)
        assert len(publish_staged(plan).work) == 2
    assert listed == ["in", "out"]


def test_results_of_many_calls_come_in_order() -> None:
    """There are more calls than are submitted to the threads at once."""
    items = range(2 * WINDOW + 1)
    assert list(in_threads(str, items)) == [(number, str(number)) for number in items]


@pytest.mark.slow
def test_a_multipart_upload_is_read_back_whole() -> None:
    """inputs.json of a million shards is so large; it replaces a smaller object."""
    from infra.benchmarks.listing import STORES

    data = bytes(range(256)) * 450_000  # 115 MB: s3fs uploads what is above 105 MB in parts
    with STORES["bucket"](1) as (places, _):
        store = Store("s3://bucket/out", places["output"]["storage_options"])
        store.put("_run/inputs.json", b"as it was")
        store.put("_run/inputs.json", data)
        assert store.get("_run/inputs.json") == data


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_shards", "imports_s", "imports_bytes"),
    [
        # so few are planned in the time that the store's libraries take to be imported
        pytest.param(20_000, 1.0, 50e6, id="twenty thousand"),
        pytest.param(100_000, 0.0, 0.0, id="a hundred thousand", marks=pytest.mark.sweep),
    ],
)
def test_many_shards_are_planned_within_their_share_of_two_minutes(
    num_shards: int, imports_s: float, imports_bytes: float
) -> None:
    """And of 2 GB: a first invocation, then one that finds half of them published."""
    from infra.benchmarks.listing import WANTED, measure

    share = num_shards / 1_000_000
    limit_s = WANTED["wall_s"] * share + imports_s
    limit_bytes = WANTED["memory_peak_bytes"] * share + imports_bytes

    # The best of three: other load only adds to the time (seen: 9.6 s alone, 12.1 s in CI).
    for _ in range(3):
        runs = measure(num_shards, "bucket")["runs"].values()
        if all(run["cpu_s"] - run["start"]["cpu_s"] < limit_s for run in runs):
            break
    for run in runs:
        assert run["cpu_s"] - run["start"]["cpu_s"] < limit_s, run
        more = run["memory_peak_bytes"] - run["start"]["memory_bytes"]
        assert more < limit_bytes, run
