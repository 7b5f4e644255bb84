"""Two processes with the same job on one output in a bucket, and interrupted publishes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.steps.publish import publish_if_complete
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.fake_job import fake_plan, run_fake
from tests.stores.conftest import S3Server
from tests.stores.two_shards import published, put_input

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    """What one driver publishes on a disk."""
    put_input(f"{tmp_path}/in", {})
    run_fake(fake_plan(f"{tmp_path}/in", f"{tmp_path}/out", 1))
    return published(Store(f"{tmp_path}/out"))


def check(output: Store, undisturbed: dict[str, bytes]) -> None:
    assert published(output) == undisturbed
    assert verify(output).problems == []
    assert not [name for name in output.list() if name.startswith("_parts/") or "probe" in name]


@pytest.mark.slow
def test_two_processes_on_one_output_write_the_same_bytes(
    bucket: str, credentials: S3Server, undisturbed: dict[str, bytes]
) -> None:
    """Both exit with 0."""
    options = credentials.storage_options
    put_input(f"{bucket}/in", options)
    output = Store(f"{bucket}/out", options)
    command = [sys.executable, "-m", "tests.stores.driver", f"{bucket}/in", output.url]
    drivers = [
        subprocess.Popen(
            [*command, json.dumps(options)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for driver in drivers:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n", driver.communicate()[1]
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write("go\n")
        driver.stdin.flush()
    for driver in drivers:
        said = driver.communicate(timeout=200)[1]
        assert driver.returncode == 0, said
    check(output, undisturbed)


class Torn(Exception):
    """Raised where the process would die."""


def tear(monkeypatch: pytest.MonkeyPatch, operation: str, name: str) -> None:
    """Makes the next storage call with this operation and start of a name raise before it."""

    def hook(when: str, called: str, of: str) -> None:
        if (when, called) == ("before", operation) and of.startswith(name):
            raise Torn

    monkeypatch.setattr(Store, "hook", staticmethod(hook))


@pytest.mark.parametrize(
    ("operation", "name"),
    [("put", "0.parquet"), ("put_if_absent", "0_stats.json"), ("delete", "<part>")],
)
def test_a_torn_publish_in_a_bucket_is_repaired(
    operation: str,
    name: str,
    bucket: str,
    credentials: S3Server,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    forget_connections: Callable[[], None],
) -> None:
    """Interrupted after the tar, the Parquet file or the marker; the next run completes it."""
    options = credentials.storage_options
    put_input(f"{bucket}/in", options)
    sections = {key: {"storage_options": options} for key in ("input", "output")}
    output = Store(f"{bucket}/out", options)
    tear(monkeypatch, operation, name.replace("<part>", "_parts/0/00001-of-00003-"))
    with pytest.raises(Torn):
        run_fake(fake_plan(f"{bucket}/in", output.url, 1, **sections))
    monkeypatch.setattr(Store, "hook", None)
    # make the tar invalid, as after an interrupted publish of another generation
    if operation != "delete":
        output.put("0.tar", b"torn")
    assert verify(output).problems != []
    assert run_fake(fake_plan(f"{bucket}/in", output.url, 1, **sections)).work == []
    assert publish_if_complete(output, "0") is not None
    check(output, undisturbed)
