"""The behavior of Ray 2.60 that this project relies on; an upgrade that changes it fails here."""

from __future__ import annotations

import ast
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of this process. Its variables end with it: with a token, later drivers are refused."""
    with mock.patch.dict(os.environ):
        yield from _local_ray()


def _local_ray() -> Iterator[None]:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    from jobs.edit.graph import configure_context

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    configure_context()
    yield
    ray.shutdown()


def test_ray_has_the_pinned_version() -> None:
    """The tests below describe this version."""
    import ray

    assert ray.__version__ == "2.60.0"


def test_each_part_has_its_own_block(local_ray: None) -> None:
    """Parts of very different size stay separate and whole through two operators."""
    import ray

    def parts(batch: Any) -> Iterator[pa.Table]:
        for number in range(6):
            size = 10 if number % 2 else 3_000_000
            yield pa.table(
                {"part": [number], "payload": pa.array([b"x" * size], pa.large_binary())}
            )

    def lengths(batch: Any) -> pa.Table:
        return pa.table({"part": batch["part"], "rows": [batch.num_rows] * batch.num_rows})

    options: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "num_cpus": 0.25}
    dataset = ray.data.from_items([{"shard": number} for number in range(2)])
    rows = dataset.map_batches(parts, **options).map_batches(lengths, **options).take_all()
    assert sorted(row["part"] for row in rows) == sorted([*range(6)] * 2)
    assert {row["rows"] for row in rows} == {1}


def test_a_part_that_kills_its_actor_is_lost_alone(local_ray: None, tmp_path: Path) -> None:
    """Restarts and retries are limited, and the other parts of the stream arrive."""
    import ray

    class Killer:
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def __call__(self, batch: pa.Table) -> pa.Table:
            number = batch["id"][0].as_py()
            if number == 2:
                with open(f"{self.folder}/deaths", "a") as file:
                    file.write("x")
                os.kill(os.getpid(), signal.SIGKILL)
            return batch

    from ray.data import ActorPoolStrategy

    from jobs.edit.graph import pool_options
    from pipeline.config.config import Config

    tree = {"input": {"shards": "a"}, "output": {"path": "b"}, "stages": {"mask": {"actors": 1}}}
    config = Config.model_validate(tree)
    dataset = ray.data.range(5, override_num_blocks=5).map_batches(
        Killer,
        fn_constructor_args=(str(tmp_path),),
        batch_size=1,
        batch_format="pyarrow",
        **pool_options(config, "mask", "cpu")
        | {"compute": ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=1)},
    )
    batches = dataset.iter_batches(batch_size=1, batch_format="numpy")
    rows = [row for batch in batches for row in np.asarray(batch["id"]).tolist()]
    assert sorted(rows) == [0, 1, 3, 4]
    deaths = (tmp_path / "deaths").read_text()
    assert len(deaths) == 1 + config.run.max_task_retries


def test_an_operator_may_return_no_rows(local_ray: None) -> None:
    """The first stage drops waiting parts after the run was asked to stop."""
    import ray

    from pipeline.records.packing import PART_SCHEMA

    def drop(batch: Any) -> pa.Table:
        return PART_SCHEMA.empty_table()

    def never(batch: Any) -> pa.Table:
        raise AssertionError("an operator was called without a row")

    options: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "num_cpus": 0.25}
    dataset = ray.data.range(3, override_num_blocks=3).map_batches(drop, **options)
    # another resource request keeps Ray from fusing the operators
    rest = dataset.map_batches(never, batch_size=1, batch_format="pyarrow", num_cpus=0.5)
    assert rest.take_all() == []


def test_a_local_ray_listens_only_on_loopback() -> None:
    """Other machines cannot reach a Ray that the command has started."""
    code = (
        "import psutil, ray; "
        "ray.init('local', num_cpus=1, include_dashboard=False, log_to_driver=False); "
        "me = psutil.Process(); pids = {me.pid, *(c.pid for c in me.children(recursive=True))}; "
        "print([c.laddr.ip for c in psutil.net_connections('inet') "
        "if c.pid in pids and c.status == 'LISTEN'])"
    )
    env = os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    addresses = done.stdout.strip().splitlines()[-1]
    assert "127.0.0.1" in addresses, done.stderr
    assert set(ast.literal_eval(addresses)) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_two_parts_are_in_an_actor_and_read_in_place(local_ray: None) -> None:
    """With the options of a pool: two calls at once, never three, each on Ray's shared memory."""
    import ray

    from jobs.edit.graph import pool_options
    from pipeline.config.config import Config
    from pipeline.records.packing import pack, unpack
    from pipeline.records.part import Part, Sample
    from pipeline.sizing.part_memory import PARTS_IN_ACTOR

    class Gate:
        """Counts who is inside, and lets the first ones out once so many are."""

        def __init__(self) -> None:
            self.inside, self.most, self.full = 0, 0, threading.Event()

        def enter(self, wanted: int) -> bool:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside >= wanted:
                self.full.set()
            return self.full.wait(30)

        def leave(self) -> None:
            self.inside -= 1

        def found(self) -> int:
            return self.most

    class Stage:
        def __init__(self, gate: Any) -> None:
            self.gate = gate

        def __call__(self, batch: pa.Table) -> pa.Table:
            assert ray.get(self.gate.enter.remote(PARTS_IN_ACTOR)), "no second call came"
            part = unpack(batch)
            image = part.samples[0].image
            assert image is not None
            address = image.__array_interface__["data"][0]
            maps = Path("/proc/self/maps").read_text().splitlines()
            spans = [([int(end, 16) for end in line.split()[0].split("-")], line) for line in maps]
            (name,) = [line for (first, after), line in spans if first <= address < after]
            assert not image.flags.writeable
            part.problem = name.split(maxsplit=5)[-1]  # the path of what is mapped there
            time.sleep(0.05)  # a third call would come meanwhile
            ray.get(self.gate.leave.remote())
            return pack(part)

    def parts(batch: Any) -> Iterator[pa.Table]:
        for number in range(6):
            image = np.full((1000, 1000, 3), number, np.uint8)
            yield pack(Part("s", number, 6, [Sample("k", image=image)]))

    gates: Any = ray.remote(Gate)
    gate = gates.options(num_cpus=0, max_concurrency=8).remote()
    tree = {"input": {"shards": "a"}, "output": {"path": "b"}, "stages": {"mask": {"actors": 1}}}
    batches = (
        ray.data.from_items([{"number": 0}])
        .map_batches(parts, batch_size=1, batch_format="pyarrow", num_cpus=0.25)
        .map_batches(
            Stage,
            fn_constructor_args=(gate,),
            batch_size=1,
            batch_format="pyarrow",
            **pool_options(Config.model_validate(tree), "mask", "cpu"),
        )
        .iter_batches(batch_size=1, batch_format="pyarrow")
    )
    found = [unpack(cast(pa.Table, batch)) for batch in batches]
    assert ray.get(gate.found.remote()) == PARTS_IN_ACTOR
    assert sorted(part.index for part in found) == [*range(6)]
    for part in found:
        assert "plasma" in (part.problem or ""), part.problem
        image = part.samples[0].image
        assert image is not None
        assert (image == part.index).all()
