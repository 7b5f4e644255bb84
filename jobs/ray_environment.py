"""Environment variables that Ray reads when it is imported. This module does not import Ray."""

from __future__ import annotations

import os

from pipeline.config.config import Config

WANTS_TOKEN = (
    "the cluster requires its authentication token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
)


def cluster_address(config: Config) -> str | None:
    """The address of the cluster; None: a local Ray is started."""
    return config.run.address or os.environ.get("RAY_ADDRESS")


def set_ray_environment(config: Config) -> None:
    """Call this before Ray is imported. Variables that are already set are kept.

    By default a local Ray listens on every interface, so that other machines could join. Ray has a
    switch for systems where it does not support clusters; on Linux (seen with 2.60) it makes Ray
    bind every port to 127.0.0.1.

    Ray retries a task that its memory monitor killed forever, whatever the task's ``max_retries``
    (but not an actor's task). Only this variable limits that. The process that owns the tasks reads
    it: the driver, also on a cluster that was started elsewhere.
    """
    if cluster_address(config) is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(config.run.max_memory_retries))
