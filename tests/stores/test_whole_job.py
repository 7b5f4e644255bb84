"""``overpaint edit`` on a store: on Ray with S3, and its errors if the store cannot be used."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from jobs.cli import main
from pipeline.config.load import load_config
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import make_plan
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.stores.conftest import S3Server
from tests.stores.two_shards import published, put_input

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder with a short path for Ray's session, which has sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_the_job_on_ray_writes_the_same_bytes_to_s3_and_no_secrets(
    bucket: str,
    credentials: S3Server,
    tiny_model_folder: Path,
    tmp_path: Path,
    ray_folder: Path,
) -> None:
    """Credentials, from the environment and the options, are in no object, log or output."""
    endpoint = credentials.storage_options
    put_input(f"{bucket}/in", endpoint)
    put_input(f"{tmp_path}/in", {})
    tree = {
        "input": {"shards": f"{bucket}/in", "storage_options": endpoint},
        "output": {
            "path": f"{bucket}/out",
            "format": "png",
            "storage_options": endpoint | {"key": credentials.key, "secret": credentials.secret},
        },
        "model": {"path": str(tiny_model_folder), "dtype": "float32"},
        "method": {"steps": 2, "mask": {"num_noises": 1}},
        "stages": {"decode": {"actors": 1}},
        "run": {"part_size": 1, "layout": "fused"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "edit", str(tmp_path / "job.yaml"), "-v"],
        cwd=ROOT,
        env=os.environ | {"RAY_TMPDIR": str(ray_folder)},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout

    here = [f"input.shards={tmp_path}/in", f"output.path={tmp_path}/out"]
    bare = ["input.storage_options={}", "output.storage_options={}"]
    run_loop(make_plan(load_config(tmp_path / "job.yaml", [*here, *bare]), "cpu"))
    output = Store(f"{bucket}/out", endpoint)
    assert published(output) == published(Store(f"{tmp_path}/out"))
    assert verify(output).problems == []

    said = {"the command's output": done.stdout + done.stderr}
    said |= {name: output.get(name) for name in output.list()}
    said |= {str(file): file.read_bytes() for file in ray_folder.rglob("*") if file.is_file()}
    assert "_run/config.yaml" in said
    assert any("raylet.out" in name for name in said), sorted(said)
    assert [name for name, text in said.items() if credentials.secret.encode() in text] == []
    assert [name for name, text in said.items() if credentials.key.encode() in text] == []


def closed_port() -> int:
    """A port on which no process listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"output.path": "s3://no-such-bucket/out"},
            "output.path='s3://no-such-bucket/out': there",
        ),
        ({"input.shards": "s3://no-such-bucket/in"}, "/in': there is no bucket 'no-such"),
        ({"input.shards": "s3://no-such-bucket/in/*.tar"}, "r': there is no bucket 'no-such-b"),
        ({"input.shards": "s3://no-such-bucket/in/0.tar"}, "r': there is no bucket 'no-such-b"),
        ({"input.shards": "<bucket>/nothing/*.tar"}, "there is no such folder, or it is empty"),
        ({"output.storage_options": "{endpoint_url: '<away>'}"}, "output.path='s3://"),
        ({"input.storage_options": "{endpoint_url: '<away>'}"}, "list input s3://"),
        ({"output.path": "memory://out"}, "output.path='memory://out': memory:// is the memory of"),
        ({"input.shards": "memory://in/*.tar"}, "input.shards='memory://in/*.tar'"),
        ({"output.storage_options": "secret=<secret>"}, "output.storage_options=...: "),
    ],
    ids=lambda value: next(iter(value.items()))[1] if isinstance(value, dict) else "",
)
def test_an_unusable_store_is_a_one_line_error_within_seconds(
    changes: dict[str, str],
    words: str,
    bucket: str,
    credentials: S3Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2 before anything is started, no traceback, no credentials."""
    put_input(f"{bucket}/in", credentials.storage_options)
    options = f"{{endpoint_url: '{credentials.endpoint_url}', key: {credentials.key}, "
    options += f"secret: {credentials.secret}}}"
    overrides = {
        "input.shards": f"{bucket}/in/*.tar",
        "output.path": f"{bucket}/out",
        "input.storage_options": options,
        "output.storage_options": options,
    } | changes
    away, secret = f"http://127.0.0.1:{closed_port()}", credentials.secret
    filled = [
        f"{key}={value}".replace("<away>", away).replace("<secret>", secret)
        for key, value in overrides.items()
    ]
    filled = [text.replace("<bucket>", bucket) for text in filled]
    start = time.monotonic()
    assert main(["edit", "demo", *filled]) == 2
    assert time.monotonic() - start < 30  # it takes 3 s on an idle machine
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("overpaint: ")
    assert words in said.err
    assert "Traceback" not in said.err
    assert secret not in said.err + said.out


def test_a_store_that_fails_during_the_run_is_a_one_line_error(
    bucket: str,
    credentials: S3Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    forget_connections: Callable[[], None],
) -> None:
    """Exit code 1, and the advice to run the same command again."""

    def away(self: Store, name: str, data: bytes) -> None:
        raise OSError(f"put {self.url}/{name}: the store has gone")

    put_input(f"{bucket}/in", credentials.storage_options)
    monkeypatch.setattr(Store, "put", away)
    options = f"{{endpoint_url: '{credentials.endpoint_url}'}}"
    command = ["edit", "demo", f"input.shards={bucket}/in", f"output.path={bucket}/out"]
    command += [f"input.storage_options={options}", f"output.storage_options={options}"]
    assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the store has gone; run the same command to resume" in line
