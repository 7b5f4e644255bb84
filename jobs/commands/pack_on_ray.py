"""Packs shards as tasks on Ray, for sources in object storage: the network is the bottleneck there.

A task writes one shard, as the plain loop does, so both write the same bytes and resume each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.edit.paths import OF_ONE_PROCESS, is_of_one_process
from jobs.ray_environment import set_ray_environment
from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.config.pack import Packing
from pipeline.pack.plan import ShardItems
from pipeline.pack.record import PackedShard
from pipeline.pack.write import Work
from pipeline.storage.urls import LOCAL, protocol_of

TASKS_PER_CPU = 2  # in flight: one is handed over while another is worked on
MAX_RETRIES = 3  # of a task whose worker was lost


class OnRay:
    """Starts Ray or connects to a cluster, and spreads the shards over its CPUs."""

    def __init__(self, packing: Packing, verbose: bool = False) -> None:
        """
        Raises:
            ConfigError: no cluster answers at ``run.address``.
        """
        where = packing.run.model_dump(include={"address", "num_cpus"})
        place = {"input": {"shards": packing.source.paths}, "output": {"path": packing.output.path}}
        config = Config.model_validate({**place, "run": where})
        set_ray_environment(config)
        from jobs.edit.cluster import connect  # after the environment is set: it imports Ray

        connect(config, verbose)

    def __enter__(self) -> OnRay:
        return self

    def __exit__(self, *_: object) -> None:
        from jobs.edit.cluster import disconnect

        disconnect()

    def __call__(self, work: Work, shards: Sequence[ShardItems]) -> Iterator[PackedShard]:
        """Yields the markers in the order of the shards.

        Raises:
            OSError, NewerVersionError: as in the plain loop.
        """
        import ray

        from jobs.edit.devices import cluster_nodes

        task: Any = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(work_on)
        sent = ray.put(work)
        cpus = sum(node.cpus for node in cluster_nodes())
        window = max(1, int(TASKS_PER_CPU * cpus))
        waiting: deque[Any] = deque()
        for shard in shards:
            if len(waiting) == window:
                yield _result(waiting.popleft())
            waiting.append(task.remote(sent, shard))
        while waiting:
            yield _result(waiting.popleft())


def work_on(work: Work, shard: ShardItems) -> PackedShard:
    """The task: a function of its own, so that ``work`` is sent once and not with each shard."""
    return work(shard)


def _result(reference: Any) -> PackedShard:
    import ray

    try:
        packed: PackedShard = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise OSError(f"a worker was lost: {type(error).__name__}") from error
    return packed


def wants_ray(packing: Packing) -> bool:
    """Whether tasks on Ray are asked for: ``auto`` means sources in object storage.

    Raises:
        ConfigError: Ray is asked for, and a path is of this machine's memory.
    """
    paths = [*packing.source.paths, packing.output.path]
    if packing.run.on_ray == "never" or any(map(is_of_one_process, paths)):
        if packing.run.on_ray == "always":
            raise ConfigError(f"run.on_ray=always: {OF_ONE_PROCESS}")
        return False
    return packing.run.on_ray == "always" or any(is_bucket(path) for path in packing.source.paths)


def is_bucket(path: str) -> bool:
    """Whether a path is a url of object storage or the web."""
    return protocol_of(path) not in LOCAL
