"""Keeps a Ray that this command starts for itself on the loopback interface. Imports no Ray."""

from __future__ import annotations

import os

from pipeline.words.config import Config


def cluster_address(config: Config) -> str | None:
    """The cluster to connect to; none: a local Ray is started."""
    return config.run.address or os.environ.get("RAY_ADDRESS")


def keep_local_ray_on_loopback(config: Config) -> None:
    """To be called before Ray is imported, which reads the variable then.

    By default a local Ray listens on every interface, so that others could join. Ray has this
    switch for systems where it supports no clusters; on Linux (seen with 2.60) it has the effect
    that every port is bound to 127.0.0.1.
    """
    if cluster_address(config) is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
