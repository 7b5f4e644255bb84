"""Connects to a Ray cluster or starts a local Ray, and checks that the pools fit on it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from jobs.edit.devices import cluster_nodes
from jobs.edit.driver_memory import limit_malloc_arenas
from jobs.edit.graph import TASK_CPUS
from jobs.edit.ray_job import DriverJob
from jobs.edit.shared_memory import small_shared_memory_told
from jobs.logs import tell
from jobs.ray_environment import WANTS_TOKEN, cluster_address
from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.sizing.pools import Node, Pool, fits

_POLL_S = 2.0


def connect(config: Config, verbose: bool) -> None:
    """Connects to the cluster that the config or RAY_ADDRESS names, else starts a local Ray.

    In another thread than the main one, Ray leaves the signal handlers as they are, and warns of it
    with ``verbose``.

    Args:
        config: ``run.address`` and ``run.num_cpus`` are read.
        verbose: show the messages of Ray and of its workers.

    Raises:
        ConfigError: no cluster answers at that address, or it refuses this process; or /dev/shm is
            too small for Ray.
    """
    limit_malloc_arenas()
    address = cluster_address(config)
    local: dict[str, Any] = (
        {"num_cpus": config.run.num_cpus, "include_dashboard": False} if not address else {}
    )
    # Chooses Ray's future default for workers without GPUs; otherwise Ray prints a warning.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    job = DriverJob(verbose=verbose)
    # What Ray's processes push to every driver, such as a line for each task that the memory
    # monitor ended; log_to_driver does not stop it.
    ray._private.worker._worker_logs_enabled = verbose
    try:
        with _own_signals(), small_shared_memory_told():
            ray.init(
                address=address or "local",  # with None, Ray joins a cluster on this machine
                job_config=job,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
                **local,
            )
    except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        if address is None:
            raise
        raise ConfigError(f"run.address={address!r}: {_refusal(error)}") from error
    finally:
        job.started()
    if not verbose:
        # Ray Data logs tracebacks of lost parts; jobs/edit/lost_parts.py logs one line for each.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if address:
        wait_for_nodes(config)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps the handler of SIGTERM while Ray starts or connects, which may take a minute.

    Ray's own would end the process with exit code 15. And Ray's processes inherit that SIGHUP is
    blocked: a terminal that closes sends it to all of them, and they are to finish their parts.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    on_sigterm = signal.getsignal(signal.SIGTERM)
    set_by_ray = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = set_by_ray
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # Also below Python. Another thread than the main one may not, and there Ray does neither.
        if threading.current_thread() is threading.main_thread() and callable(on_sigterm):
            signal.signal(signal.SIGTERM, on_sigterm)


def wait_for_nodes(config: Config) -> None:
    """Waits until ``run.num_nodes`` nodes have joined the connected cluster.

    A plan made earlier would be for fewer nodes, and "auto" might mean another device. After
    ``run.cluster_wait_s`` the run goes on with the nodes that are there, and says so.
    """
    wanted, wait_s = config.run.num_nodes or 0, config.run.cluster_wait_s

    def missing(nodes: list[Node]) -> str | None:
        return f"{len(nodes)} of {wanted} have joined" if len(nodes) < wanted else None

    nodes, still_missing = _waited_for(missing, wait_s, level="info")
    if still_missing:
        tell(
            f"only {len(nodes)} of run.num_nodes={wanted} nodes have joined after "
            f"run.cluster_wait_s={wait_s:g}; going on with these",
            level="warning",
        )


def _waited_for(
    missing: Callable[[list[Node]], str | None], wait_s: float, level: str
) -> tuple[list[Node], str | None]:
    """Looks at the nodes until nothing is missing, for as long as ``wait_s``.

    Args:
        missing: what the nodes lack, in words; None: nothing. It is told once.
        wait_s: 0: one look.
        level: of the line that tells it.

    Returns:
        The nodes, and what they still lack.
    """
    deadline = time.monotonic() + wait_s
    told = False
    while lack := missing(nodes := cluster_nodes()):
        if time.monotonic() >= deadline:
            break
        if not told:
            tell(f"waiting for nodes: {lack}", level=level)
            told = True
        time.sleep(min(_POLL_S, wait_s))
    return nodes, lack


def _refusal(error: BaseException) -> str:
    """Why Ray did not connect, in one line, and what to do if it requires a token."""
    reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    if isinstance(error.__cause__ or error, ray.exceptions.AuthenticationError):
        return f"{reason}: {WANTS_TOKEN}"
    return reason


def disconnect() -> None:
    """Disconnects from Ray; a local Ray is shut down.

    ``ray.shutdown`` restores the system's default action for SIGTERM below Python, so that the
    handler that ``signal.getsignal`` still returns would not be called. This sets it again.
    """
    ray.shutdown()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if on_sigterm is not None:
        signal.signal(signal.SIGTERM, on_sigterm)


def check_pools(config: Config, device: str) -> list[Node]:
    """Refuses pools that do not fit on the cluster: Ray would accept them and starve.

    The nodes of a cluster that was started elsewhere may still be joining, so this waits for them;
    a local Ray gets no more nodes. Of a pool of size ``auto``, one actor must fit. With layout
    ``auto``, layout fused must fit.

    Returns:
        The nodes.

    Raises:
        ConfigError: the smallest pools need more CPUs, GPUs or memory than the cluster has, or has
            after ``run.cluster_wait_s``.
    """
    pools = _smallest_pools(config, device)
    wait_s = config.run.cluster_wait_s if cluster_address(config) else 0.0
    nodes, problem = _waited_for(
        lambda nodes: _problem(pools, nodes, wait_s), wait_s, level="warning"
    )
    if problem:
        raise ConfigError(problem)
    return nodes


def _smallest_pools(config: Config, device: str) -> list[Pool]:
    """The pools in their smallest sizes, and one reader and one writer."""
    pools = [Pool("read and finish", 0.0, cpus=TASK_CPUS, actors=2)]
    for name in ("fused",) if config.run.layout == "auto" else config.pools:
        stage = config.pool_stage(name)
        pools.append(
            Pool(
                name,
                0.0,
                cpus=stage.cpus,
                gpus=stage.gpus_per_actor(device),
                memory_bytes=stage.memory_bytes or 0,
                actors=1 if stage.actors == "auto" else stage.actors,
            )
        )
    return pools


def _problem(pools: list[Pool], nodes: list[Node], wait_s: float) -> str | None:
    """Why the pools do not fit, in words; None if they fit."""
    waited = f" (run.cluster_wait_s={wait_s:g})" if wait_s else ""
    amounts, keys = [], []
    for kind, unit in (("cpus", "CPUs"), ("gpus", "GPUs"), ("memory_bytes", "bytes of memory")):
        needed = sum((pool.actors or 0) * getattr(pool, kind) for pool in pools)
        total = sum(getattr(node, kind) for node in nodes)
        if needed > total:
            amounts.append(f"{needed:g} {unit}, but the cluster has {total:g}")
            keys.append(f"stages.*.{kind}")
    if amounts:
        return (
            f"stages: the smallest pools need {' and '.join(amounts)}{waited}; lower "
            f"stages.*.actors, {' or '.join(keys)}, or set run.layout=fused"
        )
    if not fits(pools, {pool.name: pool.actors or 0 for pool in pools}, nodes):
        return (
            "stages: the cluster has enough in total for the smallest pools, but no single node "
            f"has room for some actor{waited}: an actor's CPUs, memory and GPUs must be on one "
            "node, and a fraction of a GPU on one GPU; "
            "lower stages.*.actors, stages.*.gpus, stages.*.cpus or stages.*.memory_bytes"
        )
    return None
