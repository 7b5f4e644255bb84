"""az:// on Azurite, Microsoft's emulator, if it and adlfs are installed; no extra installs them.

npm install azurite && pip install -c constraints.txt '.[azure]'
PATH=$PWD/node_modules/.bin:$PATH pytest tests/stores/test_azurite.py
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.steps.verify import verify
from pipeline.storage.shards import expand_shards
from pipeline.storage.store import Store
from tests.fake_job import fake_plan, run_fake
from tests.stores.races import race_to_put
from tests.stores.two_shards import published, put_input

# The emulator's own account, from its documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The storage options of a running emulator with one container, "container"."""
    azurite = shutil.which("azurite-blob")
    if azurite is None or importlib.util.find_spec("adlfs") is None:
        pytest.skip("no Azurite (npm install azurite), or no adlfs (the extra azure)")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder = tmp_path_factory.mktemp("azurite")
    # --skipApiVersionCheck: by default it refuses newer versions of the protocol than its own
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    quiet = ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    process = subprocess.Popen([azurite, *where, *quiet], stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        url = f"http://127.0.0.1:{port}/{ACCOUNT}"
        account = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY}"
        given = {"connection_string": f"{account};BlobEndpoint={url};"}
        import fsspec

        fsspec.filesystem("az", **given).mkdir("container")
        yield given
    finally:
        process.terminate()
        process.wait(30)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("Azurite did not start")


def test_put_if_absent_has_one_winner(options: dict[str, Any]) -> None:
    """Sixteen threads race; the store is found to be conditional."""
    store = Store("az://container/race", options)
    assert store.conditional
    won = race_to_put(store.url, options, "name")
    assert len(won) == 1
    assert store.get("name", listed=store.stat("name")) == str(won[0]).encode()
    store.delete("name")
    store.delete("name")
    assert store.list() == {}


def test_the_local_loop_writes_the_same_bytes_to_azure(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Input is found by folder and by glob; no object holds the account's key."""
    put_input("az://container/in", options)
    put_input(f"{tmp_path}/in", {})
    found = [expand_shards(f"az://container/in{rest}", options) for rest in ("", "/**/*.tar")]
    assert found[0] == found[1]
    sections = {name: {"storage_options": options} for name in ("input", "output")}
    assert run_fake(fake_plan("az://container/in", "az://container/out", 1, **sections)).work == []
    run_fake(fake_plan(f"{tmp_path}/in", f"{tmp_path}/out", 1))
    output = Store("az://container/out", options)
    assert published(output) == published(Store(f"{tmp_path}/out"))
    assert verify(output).problems == []
    assert [name for name in output.list() if KEY.encode() in output.get(name)] == []
