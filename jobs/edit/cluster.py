"""Connecting to Ray, or starting a local one, and checking that the pools fit before they start."""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import Any

import ray

from jobs.edit.driver_memory import limit_malloc_arenas
from jobs.edit.graph import TASK_CPUS
from jobs.logs import tell
from jobs.ray_environment import WANTS_TOKEN, cluster_address
from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.sizing.pools import Node, Pool, fits

_LOOK_EVERY_S = 2.0


def connect(config: Config, verbose: bool) -> None:
    """Connects to the cluster that the config or RAY_ADDRESS names, else starts a local Ray.

    Args:
        config: its ``run.address`` and ``run.num_cpus``.
        verbose: show Ray's own messages and those of its workers.

    Raises:
        ConfigError: no cluster answers at that address, or it does not let this process in.
    """
    limit_malloc_arenas()
    address = cluster_address(config)
    local: dict[str, Any] = (
        {"num_cpus": config.run.num_cpus, "include_dashboard": False} if not address else {}
    )
    # The progress line is ours; without this Ray warns that it will stop reserving zero GPUs.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",  # none: Ray would join any that it finds on this machine
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            **local,
        )
    except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        if address is None:
            raise
        raise ConfigError(f"run.address={address!r}: {_refusal(error)}") from error
    if callable(on_sigterm):  # Ray has put one of its own there
        signal.signal(signal.SIGTERM, on_sigterm)
    if not verbose:
        # Its tracebacks of lost parts: jobs/edit/lost_parts.py says what became of each, in a line.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _refusal(error: BaseException) -> str:
    """Why Ray did not connect, in a line, and what to do where it asked for a token."""
    reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    if isinstance(error.__cause__ or error, ray.exceptions.AuthenticationError):
        return f"{reason}: {WANTS_TOKEN}"
    return reason


def disconnect() -> None:
    """Leaves Ray, and ends a local one.

    Ray's shutdown puts the system's own reaction to SIGTERM back without Python's knowledge, so
    that the handler which ``signal.getsignal`` still names would not be called.
    """
    ray.shutdown()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if on_sigterm is not None:
        signal.signal(signal.SIGTERM, on_sigterm)


def check_stores(config: Config) -> None:
    """Refuses stores that only one process sees.

    Raises:
        ConfigError: input or output is memory://.
    """
    shards = config.input.shards
    urls = [("input.shards", url) for url in ([shards] if isinstance(shards, str) else shards)]
    for key, url in [*urls, ("output.path", config.output.path)]:
        if url.startswith("memory://"):
            raise ConfigError(
                f"{key}={url!r}: memory:// is the memory of one process, and Ray works in several; "
                "give a path or the url of a bucket (the plain loop, "
                "pipeline/execution/local_loop.py, can use it)"
            )


def device_of(config: Config) -> str:
    """What ``model.device: auto`` stands for: CUDA where the connected cluster has a GPU."""
    if config.model.device != "auto":
        return config.model.device
    if ray.is_initialized():
        return "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"
    import torch  # takes seconds, and only a local run without a named device needs it here

    return "cuda" if torch.cuda.is_available() else "cpu"


def cluster_nodes() -> list[Node]:
    """What each node of the connected cluster has in all, used or not."""
    return [
        Node(
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            memory_bytes=node["Resources"].get("memory", 0.0),
            object_store_bytes=node["Resources"].get("object_store_memory", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def check_pools(config: Config, device: str) -> list[Node]:
    """Refuses pools that the cluster cannot hold: Ray would accept them and starve.

    On a cluster that was started elsewhere the nodes may still be joining, so they are waited for;
    a local Ray has what it will ever have. Of a pool whose size is left to the plan one actor must
    fit, and where the layout is left to it, those of layout fused.

    Returns:
        The nodes, on which the smallest pools fit.

    Raises:
        ConfigError: the smallest pools need more CPUs, GPUs or memory than there are, or than came
            within ``run.cluster_wait_s``.
    """
    pools = _smallest_pools(config, device)
    wait_s = config.run.cluster_wait_s if cluster_address(config) else 0.0
    deadline = time.monotonic() + wait_s
    while problem := _problem(pools, nodes := cluster_nodes(), wait_s):
        if time.monotonic() >= deadline:
            raise ConfigError(problem)
        if deadline - time.monotonic() > wait_s - _LOOK_EVERY_S:  # the first look
            tell(f"waiting for nodes: {problem}", level="warning")
        time.sleep(min(_LOOK_EVERY_S, wait_s))
    return nodes


def _smallest_pools(config: Config, device: str) -> list[Pool]:
    """What must fit: the pools, and one reader and one writer beside them."""
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
    """Why the pools do not fit, in words; None where they do."""
    waited = f" (run.cluster_wait_s={wait_s:g})" if wait_s else ""
    amounts, keys = [], []
    for kind, unit in (("cpus", "CPUs"), ("gpus", "GPUs"), ("memory_bytes", "bytes of memory")):
        needed = sum((pool.actors or 0) * getattr(pool, kind) for pool in pools)
        there = sum(getattr(node, kind) for node in nodes)
        if needed > there:
            amounts.append(f"{needed:g} {unit}, where the cluster has {there:g}")
            keys.append(f"stages.*.{kind}")
    if amounts:
        return (
            f"stages: the smallest pools need {' and '.join(amounts)}{waited}; lower "
            f"stages.*.actors, {' or '.join(keys)}, or set run.layout=fused"
        )
    if not fits(pools, {pool.name: pool.actors or 0 for pool in pools}, nodes):
        return (
            f"stages: the cluster has what the smallest pools need, but in pieces{waited}: an "
            "actor's CPUs, memory and GPUs lie on one node, and a fraction of a GPU on one GPU; "
            "lower stages.*.actors, stages.*.gpus, stages.*.cpus or stages.*.memory_bytes"
        )
    return None
