"""The job on a real server through a proxy that injects faults: right bytes, or a clear error.

The proxy is between client and server, so these tests cover the client's library, its retries, our
retries, and the order of our calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.config.load import ConfigError
from pipeline.plan.plan import Plan
from pipeline.steps.verify import verify
from pipeline.storage import retry
from pipeline.storage.retry import StorageError
from pipeline.storage.store import Store
from tests.fake_job import fake_plan, run_fake
from tests.stores.conftest import S3Server
from tests.stores.faulty_proxy import FaultyProxy, Request, faulty_proxy, paging, seeded
from tests.stores.two_shards import published, put_input

FAULTS = ("503", "429", "500", "500 after", "reset", "stall", "cut", "short", "412")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the job publishes without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    put_input(f"{folder}/in", {})
    run_fake(fake_plan(f"{folder}/in", f"{folder}/out", 1))
    return published(Store(f"{folder}/out"))


@pytest.fixture
def proxy(credentials: S3Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(credentials.endpoint_url) as running:
        yield running


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the waits between attempts, but keeps their number."""
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.005)


def through(proxy: FaultyProxy, **client: Any) -> dict[str, Any]:
    """Config sections that reach the store through the proxy, without botocore's own retries."""
    client = {"read_timeout": 5, "retries": {"max_attempts": 0}} | client
    options = {"endpoint_url": proxy.url, "config_kwargs": client}
    return {"input": {"storage_options": options}, "output": {"storage_options": options}}


def run(bucket: str, **sections: Any) -> Plan:
    return run_fake(fake_plan(f"{bucket}/in", f"{bucket}/out", 1, **sections))


def check(bucket: str, credentials: S3Server, undisturbed: dict[str, bytes]) -> None:
    """Checks that the output is complete and right, without leftovers."""
    output = Store(f"{bucket}/out", credentials.storage_options)
    assert published(output) == undisturbed
    assert verify(output).problems == []
    assert [name for name in output.list() if name.startswith("_parts/") or "probe" in name] == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_transient_faults_do_not_change_the_output(
    fault: str,
    bucket: str,
    credentials: S3Server,
    proxy: FaultyProxy,
    undisturbed: dict[str, bytes],
    short_waits: None,
) -> None:
    """The fault hits 30 % of the requests (412: half of them)."""
    put_input(bucket + "/in", credentials.storage_options)
    proxy.choose = seeded(1, 0.5 if fault == "412" else 0.3, fault)
    timeout = {"read_timeout": 0.4} if fault == "stall" else {}
    assert run(bucket, **through(proxy, **timeout)).work == []
    assert proxy.met[fault] >= 3, proxy.met
    check(bucket, credentials, undisturbed)


@pytest.mark.slow
def test_paged_listings_are_read_completely(
    bucket: str, credentials: S3Server, proxy: FaultyProxy, undisturbed: dict[str, bytes]
) -> None:
    """Two names per page, and every third page is refused once."""
    put_input(bucket + "/in", credentials.storage_options)
    proxy.rewrite = paging(credentials.key, credentials.secret, 2)
    pages: list[str] = []

    def refuse(request: Request) -> str | None:
        if "continuation-token" not in request.query:
            return None
        pages.append(request.target)
        return "503" if len(pages) % 3 == 0 else None

    proxy.choose = refuse
    assert run(bucket, **through(proxy, retries={"max_attempts": 1})).work == []
    assert len(pages) > 10
    assert proxy.met["503"] >= 3
    check(bucket, credentials, undisturbed)


@pytest.mark.slow
def test_a_store_that_fails_ends_the_run_and_the_next_run_completes_it(
    bucket: str,
    credentials: S3Server,
    proxy: FaultyProxy,
    undisturbed: dict[str, bytes],
    short_waits: None,
) -> None:
    """The store fails from a given request on, in several ways, with a clear error."""
    source = Store(f"{bucket}/in", credentials.storage_options)
    put_input(source.url, credentials.storage_options)
    assert run(bucket, **through(proxy)).work == []
    num_requests = proxy.num_requests
    output = Store(f"{bucket}/out", credentials.storage_options)
    operations = set()
    ways = ("503", "reset", "500 after")
    for number, start in enumerate(range(1, num_requests, 8)):
        for name in output.list():
            output.delete(name)
        first = proxy.num_requests + start
        proxy.choose = away(first, ways[number % len(ways)])
        with pytest.raises((StorageError, ConfigError)) as caught:
            run(bucket, **through(proxy))
        assert bucket in str(caught.value)
        operations.add(str(caught.value).split()[0])
        proxy.choose = lambda request: None
        assert run(bucket, **through(proxy)).work == []
        check(bucket, credentials, undisturbed)
    assert len(operations) >= 3, operations  # put, get, list, ...
    assert all(proxy.met[way] for way in ways), proxy.met


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "words"), [("403", "check the credentials"), ("507", "InsufficientStorage")]
)
def test_a_store_that_refuses_parts_leaves_no_failed_rows(
    status: str,
    words: str,
    bucket: str,
    credentials: S3Server,
    proxy: FaultyProxy,
    undisturbed: dict[str, bytes],
) -> None:
    """In mid-run, at once and in a sentence; a part that is small enough may fit later."""
    put_input(bucket + "/in", credentials.storage_options)
    parts: list[str] = []

    def refuse(request: Request) -> str | None:
        if request.method != "PUT" or "/_parts/" not in request.name:
            return None
        parts.append(request.name)
        return status if len(parts) == 2 or len(parts) > 3 else None

    proxy.choose = refuse
    for _ in range(3):
        with pytest.raises(OSError, match=words) as caught:
            run(bucket, **through(proxy))
        assert f"{bucket}/out/_parts/" in str(caught.value)
    assert len(parts) == proxy.met[status] + 2, "a refused part was put again"
    assert proxy.met[status] == 3
    output = Store(f"{bucket}/out", credentials.storage_options)
    assert published(output).keys() <= undisturbed.keys()
    proxy.choose = lambda request: None
    assert run(bucket, **through(proxy)).work == []
    check(bucket, credentials, undisturbed)


def away(first: int, fault: str) -> Callable[[Request], str | None]:
    """Chooses the fault for this and all later requests if it fits, else 503."""

    def choose(request: Request) -> str | None:
        if request.number < first:
            return None
        fits = {"reset": ("GET", "PUT"), "500 after": ("PUT", "DELETE")}.get(fault, ())
        return fault if request.method in fits else "503"

    return choose


def test_retries_of_the_client_and_of_the_store_do_not_multiply(
    bucket: str,
    credentials: S3Server,
    proxy: FaultyProxy,
    short_waits: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By default, a request that always fails is sent twice in each of our attempts."""
    monkeypatch.setattr(retry, "ATTEMPTS", 4)
    store = Store(bucket, {"endpoint_url": proxy.url})
    # aiohttp itself repeats a request if a connection that it kept open breaks
    for fault, per_attempt in (("503", 2), ("429", 2), ("reset", 4)):
        proxy.choose = lambda request, fault=fault: fault  # type: ignore[misc]
        before = proxy.num_requests
        with pytest.raises(StorageError, match="put s3://"):
            store.put("a", b"0123456789")
        assert proxy.num_requests - before <= 4 * per_attempt, fault


def test_timeouts_come_from_the_storage_options(
    bucket: str, credentials: S3Server, proxy: FaultyProxy
) -> None:
    """``config_kwargs`` limits how long a body may stall."""
    Store(bucket, credentials.storage_options).put("a", b"x" * 10000)
    through_proxy = through(proxy, read_timeout=0.3)["input"]["storage_options"]
    proxy.choose = lambda request: "stall" if proxy.met["stall"] < 1 else None
    start = time.monotonic()
    assert Store(bucket, through_proxy).get("a") == b"x" * 10000
    assert proxy.met["stall"] == 1
    assert 0.3 < time.monotonic() - start < 5
