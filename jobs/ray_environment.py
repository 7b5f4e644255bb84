"""What Ray reads from the environment when it is imported. Imports no Ray."""

from __future__ import annotations

import os

from pipeline.config.config import Config

WANTS_TOKEN = (
    "the cluster asks for a token, and takes no other than its own; set RAY_AUTH_MODE=token and "
    "RAY_AUTH_TOKEN"
)


def cluster_address(config: Config) -> str | None:
    """The cluster to connect to; none: a local Ray is started."""
    return config.run.address or os.environ.get("RAY_ADDRESS")


def set_ray_environment(config: Config) -> None:
    """To be called before Ray is imported. What the environment says already stays.

    By default a local Ray listens on every interface, so that others could join. Ray has a switch
    for systems where it supports no clusters; on Linux (seen with 2.60) it has the effect that
    every port is bound to 127.0.0.1.

    A task that Ray's memory monitor ends is retried without end, whatever its ``max_retries``; an
    actor's task is not. The number stands in this variable alone, and the process that owns the
    tasks reads it: the driver, wherever its cluster was started.
    """
    if cluster_address(config) is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(config.run.max_memory_retries))
