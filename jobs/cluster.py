"""Connecting to Ray, or starting a local one, and checking that the pools fit before they start."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

import ray

from jobs.graph import TASK_CPUS, gpus_per_actor, pool_stage
from jobs.ray_environment import cluster_address
from pipeline.words.config import Config
from pipeline.words.config_file import ConfigError

_LOOK_EVERY_S = 2.0


def connect(config: Config, verbose: bool) -> None:
    """Connects to the cluster that the config or RAY_ADDRESS names, else starts a local Ray.

    Args:
        config: its ``run.address`` and ``run.num_cpus``.
        verbose: show Ray's own messages and those of its workers.
    """
    address = cluster_address(config)
    local: dict[str, Any] = (
        {"num_cpus": config.run.num_cpus, "include_dashboard": False} if not address else {}
    )
    # The progress line is ours; without this Ray warns that it will stop reserving zero GPUs.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(
        address=address or "local",  # none: Ray would join any that it finds on this machine
        log_to_driver=verbose,
        logging_level=logging.INFO if verbose else logging.ERROR,
        **local,
    )
    if not verbose:
        # Its tracebacks of lost parts: jobs/missing.py says what became of each, in a line.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)


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
                "give a path or the url of a bucket (the plain loop, pipeline/plan/loop.py, can "
                "use it)"
            )


def device_of(config: Config) -> str:
    """What ``model.device: auto`` stands for: CUDA where the connected cluster has a GPU."""
    if config.model.device != "auto":
        return config.model.device
    if ray.is_initialized():
        return "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"
    import torch  # takes seconds, and only a local run without a named device needs it here

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_pools(config: Config, device: str) -> None:
    """Refuses pools that the cluster cannot hold: Ray would accept them and starve.

    On a cluster that was started elsewhere the nodes may still be joining, so they are waited for;
    a local Ray has what it will ever have.

    Raises:
        ConfigError: the smallest pools need more CPUs or GPUs than there are, or than came within
            ``run.cluster_wait_s``.
    """
    pools = [pool_stage(config, name) for name in config.pools]
    needed = {
        # one reader and one writer work beside the pools
        "CPU": sum(stage.actors * stage.cpus for stage in pools) + 2 * TASK_CPUS,
        "GPU": sum(stage.actors * gpus_per_actor(stage, device) for stage in pools),
    }
    wait_s = config.run.cluster_wait_s if cluster_address(config) else 0.0
    deadline = time.monotonic() + wait_s
    while missing := _missing(needed):
        if time.monotonic() >= deadline:
            raise ConfigError(_too_small(missing, needed, wait_s))
        if deadline - time.monotonic() > wait_s - _LOOK_EVERY_S:  # the first look
            print(f"waiting for nodes: {_too_small(missing, needed, wait_s)}", file=sys.stderr)
        time.sleep(min(_LOOK_EVERY_S, wait_s))


def _missing(needed: dict[str, float]) -> list[str]:
    """The kinds of resource of which the cluster has too little at present."""
    there = ray.cluster_resources()
    return [kind for kind, amount in needed.items() if amount > there.get(kind, 0.0)]


def _too_small(missing: list[str], needed: dict[str, float], wait_s: float) -> str:
    there = ray.cluster_resources()
    amounts = " and ".join(
        f"{needed[kind]:g} {kind}s, where the cluster has {there.get(kind, 0.0):g}"
        for kind in missing
    )
    waited = f" (run.cluster_wait_s={wait_s:g})" if wait_s else ""
    keys = " or ".join(f"stages.*.{kind.lower()}s" for kind in missing)
    return (
        f"stages: the smallest pools need {amounts}{waited}; lower stages.*.actors, {keys}, or "
        "set run.layout=fused"
    )
