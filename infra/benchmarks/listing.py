"""Measures seconds and memory of a run with very many shards before its first part.

    python -m infra.benchmarks.listing --shards 1000000 --out infra/benchmarks/listing_1m.json
    python -m infra.benchmarks.listing --store local --shards 100000

It measures two invocations of the driver, each in its own process: *first* lists all input shards
and records them in ``_run/inputs.json``; *resumed* finds half of them published, compares the
inputs with the recorded ones, and has the other half to do. The driver is timed until it would
start Ray. The bucket is ``tests/stores/listed_bucket.py``, a server on this machine that generates
its listings: s3fs and botocore do their full work, but there is no network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.storage.store import Store

ROOT = Path(__file__).resolve().parents[2]
WANTED = {"wall_s": 120.0, "memory_peak_bytes": 2e9}
OUTPUTS = (".tar", ".parquet", "_stats.json")


def main() -> None:
    """Measures both invocations and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--store", choices=STORES, default="bucket")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--driver", help=argparse.SUPPRESS
    )  # run one invocation; its config as JSON
    arguments = parser.parse_args()
    if arguments.driver:
        print(json.dumps(drive(json.loads(arguments.driver))))
        return
    report = measure(arguments.shards, arguments.store)
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)


def measure(num_shards: int, store: str) -> dict[str, Any]:
    """Measures a first invocation, publishes half of the shards, measures a second one."""
    with STORES[store](num_shards) as (places, publish):
        runs = {"first": _invoke(places)}
        publish(num_shards // 2)
        runs["resumed"] = _invoke(places)
    assert (runs["first"]["to_do"], runs["first"]["published"]) == (num_shards, 0)
    assert runs["resumed"]["published"] == num_shards // 2
    return {
        "shards": num_shards,
        "store": store,
        "runs": runs,
        "wanted_below": WANTED,
        "met": all(run[key] < limit for run in runs.values() for key, limit in WANTED.items()),
        "cores": len(os.sched_getaffinity(0)),
    }


def _invoke(places: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "infra.benchmarks.listing", "--driver", json.dumps(places)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def drive(places: dict[str, Any]) -> dict[str, Any]:
    """Does what ``overpaint edit`` does before it starts Ray, and times each step."""
    start = time.perf_counter()
    import jobs.edit.driver  # noqa: F401 - the driver's memory includes Ray and pandas
    from pipeline.config.load import parse_config
    from pipeline.plan.inputs import changed_inputs
    from pipeline.plan.plan import make_plan
    from pipeline.plan.run_folder import write_run_folder
    from pipeline.republish.retry_failed import publish_staged

    seconds: dict[str, float] = {}
    at_start = {"cpu_s": round(time.process_time(), 2), "memory_bytes": _memory_peak()}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        before = time.perf_counter()
        answer = call()
        seconds[name] = round(time.perf_counter() - before, 2)
        return answer

    plan = timed("list", lambda: make_plan(parse_config(places), "cpu"))
    changed = timed("compare", lambda: changed_inputs(plan))
    assert not changed, changed[0]
    timed("freeze", lambda: write_run_folder(plan))
    plan = timed("publish", lambda: publish_staged(plan))
    return {
        "wall_s": round(time.perf_counter() - start, 2),
        "cpu_s": round(time.process_time(), 2),
        "memory_peak_bytes": _memory_peak(),
        "start": at_start,
        "seconds": seconds,
        "to_do": len(plan.work),
        "published": len(plan.published),
    }


def _memory_peak() -> int:
    """The peak memory of this process; getrusage would include its parent's memory."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1]) * 1024


Opened = tuple[dict[str, Any], Callable[[int], None]]  # config; publishes this many shards


@contextmanager
def _bucket(num_shards: int) -> Iterator[Opened]:
    command = [sys.executable, "-m", "tests.stores.listed_bucket", str(num_shards)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    options = {
        "key": "key",
        "secret": "secret",
        "client_kwargs": {
            "region_name": "us-east-1",
            "endpoint_url": server.stdout.readline()[:-1],
        },
    }
    places = {
        "input": {"shards": "s3://bucket/in/*.tar", "storage_options": options},
        "output": {"path": "s3://bucket/out", "storage_options": options},
    }
    try:
        yield places, lambda done: Store("s3://bucket", options).put("done", str(done).encode())
    finally:
        server.kill()
        server.wait()


@contextmanager
def _local(num_shards: int) -> Iterator[Opened]:
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        output.mkdir()
        for number in range(num_shards):
            (source / f"{number:07d}.tar").touch()

        def publish(done: int) -> None:
            for number in range(done):
                for ending in OUTPUTS:
                    (output / f"{number:07d}{ending}").touch()

        yield {"input": {"shards": f"{source}/*.tar"}, "output": {"path": str(output)}}, publish


STORES = {"bucket": _bucket, "local": _local}

if __name__ == "__main__":
    main()
