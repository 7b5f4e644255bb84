"""The whole job on a real S3 server: read, stage, publish, verify, resume, and refusals."""

from __future__ import annotations

import random
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from jobs.cli import main
from pipeline.config.load import parse_config
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import Plan, make_plan
from pipeline.plan.status import read_status
from pipeline.records.part import Part
from pipeline.steps.verify import verify
from pipeline.storage import scratch
from pipeline.storage.content import FileContent
from pipeline.storage.scratch import Spool
from pipeline.storage.store import Store
from tests.committing import invert
from tests.fake_job import fake_plan, run_fake
from tests.stores.conftest import S3Server
from tests.stores.races import race_to_put
from tests.stores.two_shards import published, put_input


def test_store_operations_work_on_a_real_server(bucket: str, credentials: S3Server) -> None:
    """put_if_absent has one winner, listings are in byte order, missing objects raise."""
    store = Store(bucket + "/x", credentials.storage_options)
    assert store.conditional
    assert not store.list()
    assert store.put_if_absent("a/b", b"first")
    assert not store.put_if_absent("a/b", b"second")
    assert store.get("a/b", listed=store.stat("a/b")) == b"first"
    for name in ("a.b", "a0", "a/a", "B"):
        store.put(name, name.encode())
    assert list(store.list()) == ["B", "a.b", "a/a", "a/b", "a0"]
    store.delete("a/b")
    store.delete("a/b")
    with pytest.raises(FileNotFoundError):
        store.get("a/b")


def test_large_objects_are_sent_in_pieces_and_read_from_disk(
    bucket: str, credentials: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tar of several pieces is one object, replaces a torn one, and is read by ranges."""
    monkeypatch.setattr(scratch, "HELD_BYTES", 1 << 20)
    monkeypatch.setattr("pipeline.storage.bucket.PIECE_BYTES", 5 << 20)
    store, spool = Store(bucket + "/large", credentials.storage_options), Spool()
    data = random.Random(0).randbytes(13 << 20)
    for start in range(0, len(data), 1 << 20):
        spool.write(data[start : start + (1 << 20)])
    store.put("0.tar", b"torn")
    store.put_spooled("0.tar", spool)
    found = store.open("0.tar", listed=store.stat("0.tar"))
    assert isinstance(found, FileContent)
    assert found[:] == data == store.get("0.tar")
    assert str(store.stat("0.tar").etag).endswith("-3")  # S3's mark of three pieces
    assert list(store.list()) == ["0.tar"]


def test_one_of_sixteen_writers_wins(bucket: str, credentials: S3Server) -> None:
    """Of sixteen threads that put the same name if absent, one is told that it wrote."""
    won = race_to_put(bucket + "/race", credentials.storage_options, "name")
    assert len(won) == 1
    assert Store(bucket + "/race", credentials.storage_options).get("name") == str(won[0]).encode()


@pytest.mark.slow
def test_the_local_loop_writes_the_same_bytes_to_s3(
    bucket: str, credentials: S3Server, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """With a network, interrupted after one part and resumed; no object holds a secret."""
    options = credentials.storage_options

    def plan(shards: str, output: str, storage_options: dict[str, Any]) -> Plan:
        tree = {
            "input": {"shards": shards, "storage_options": storage_options},
            "output": {"path": output, "format": "png", "storage_options": storage_options},
            "model": {"path": str(tiny_model_folder)},
            "method": {"steps": 2, "mask": {"num_noises": 1}},
            "run": {"part_size": 2},
        }
        return make_plan(parse_config(tree), "cpu")

    put_input(bucket + "/in", options)
    put_input(str(tmp_path / "in"), {})
    run_loop(plan(f"{tmp_path}/in", f"{tmp_path}/out", {}))

    def stop_after_one(result: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_loop(plan(f"{bucket}/in", f"{bucket}/out", options), on_part=stop_after_one)
    output = Store(f"{bucket}/out", options)
    assert read_status(output).states == {"done": 0, "staged": 1, "to do": 1}
    assert run_loop(plan(f"{bucket}/in", f"{bucket}/out", options)).work == []
    assert published(output) == published(Store(f"{tmp_path}/out"))
    assert verify(output).problems == []
    names = list(output.list())
    assert [name for name in names if name.startswith("_parts/")] == []
    secrets = (credentials.key.encode(), credentials.secret.encode())
    assert not [name for name in names if any(s in output.get(name) for s in secrets)]


def test_a_second_run_changes_no_byte(bucket: str, credentials: S3Server) -> None:
    """Every published object keeps its etag; ``status`` and ``verify`` accept the endpoint."""
    options = credentials.storage_options
    put_input(bucket + "/in", options)
    sections: dict[str, Any] = {name: {"storage_options": options} for name in ("input", "output")}
    assert run_fake(fake_plan(f"{bucket}/in", f"{bucket}/out", **sections)).work == []
    output = Store(f"{bucket}/out", options)
    names = [name for name in output.list() if not name.startswith("_run/")]
    before = {name: output.stat(name) for name in names}
    assert len(before) == 6
    run_fake(fake_plan(f"{bucket}/in", f"{bucket}/out", **sections))
    assert {name: output.stat(name) for name in names} == before
    endpoint = ["--storage-option", f"endpoint_url={credentials.endpoint_url}"]
    assert main(["verify", f"{bucket}/out", *endpoint]) == 0
    assert main(["status", f"{bucket}/out", *endpoint]) == 0


@pytest.mark.parametrize("wrong", ["secret", "key", "none"])
def test_wrong_credentials_are_a_one_line_error(
    wrong: str,
    bucket: str,
    credentials: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    forget_connections: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It names the url but no secret, and comes without minutes of retries."""
    put_input(bucket + "/in", credentials.storage_options)
    names = {"secret": "AWS_SECRET_ACCESS_KEY", "key": "AWS_ACCESS_KEY_ID"}
    if wrong == "none":
        for name in names.values():
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    else:
        monkeypatch.setenv(names[wrong], f"wrong{uuid.uuid4().hex}")
    forget_connections()
    options = f"{{endpoint_url: '{credentials.endpoint_url}'}}"
    endpoint = ["--storage-option", f"endpoint_url={credentials.endpoint_url}"]
    commands = [
        ["verify", f"{bucket}/out", *endpoint],
        ["status", f"{bucket}/out", *endpoint],
        [
            *("edit", "demo", f"input.shards={bucket}/in/*.tar", f"output.path={bucket}/out"),
            *(f"input.storage_options={options}", f"output.storage_options={options}"),
            "--dry-run",
        ],
    ]
    for command in commands:
        start = time.monotonic()
        assert main(command) == 2
        assert time.monotonic() - start < 10
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("overpaint: ")
        assert bucket in line
        assert credentials.secret not in line


def test_two_drivers_on_one_output_write_the_same_bytes(
    bucket: str, credentials: S3Server, tmp_path: Path
) -> None:
    """Two local loops race for the same parts; ``verify`` passes."""
    options = credentials.storage_options
    put_input(bucket + "/in", options)
    put_input(str(tmp_path / "in"), {})
    run_fake(fake_plan(f"{tmp_path}/in", f"{tmp_path}/out", 1))
    sections = {"input": {"storage_options": options}, "output": {"storage_options": options}}
    race([fake_plan(f"{bucket}/in", f"{bucket}/out", 1, **sections) for _ in range(2)])
    output = Store(f"{bucket}/out", options)
    assert verify(output).problems == []
    assert published(output) == published(Store(f"{tmp_path}/out"))


def race(plans: list[Plan]) -> None:
    """Runs loops in step: each part is computed by all of them before any of them stages it."""
    barrier = threading.Barrier(len(plans))
    failures: list[str] = []

    def together(part: Part) -> Part:
        with suppress(threading.BrokenBarrierError):  # the other loop may have finished
            barrier.wait(5)
        return invert(part)

    def drive(plan: Plan) -> None:
        try:
            run_loop(plan)
        except BaseException:  # noqa: BLE001 - shown by the assertion below
            failures.append(traceback.format_exc())

    with mock.patch("pipeline.stages.build.load_stages", return_value={"decode": together}):
        threads = [threading.Thread(target=drive, args=(plan,)) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
