"""The nodes of the connected cluster, and the device that ``model.device: auto`` means there."""

from __future__ import annotations

import ctypes
from typing import Any

import ray

from jobs.ray_environment import cluster_address
from pipeline.config.config import Config
from pipeline.models.precision import WITHOUT_BFLOAT16
from pipeline.process.allocator import use_expandable_segments
from pipeline.sizing.pools import Node


def cluster_nodes() -> list[Node]:
    """The total resources of each node of the connected cluster."""
    return [
        Node(
            cpus=resources.get("CPU", 0.0),
            gpus=resources.get("GPU", 0.0),
            memory_bytes=resources.get("memory", 0.0),
            object_store_bytes=resources.get("object_store_memory", 0.0),
        )
        for resources in _resources()
    ]


def _resources() -> list[dict[str, float]]:
    """What each living node has, by Ray's names."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray 2.60 has none
    return [node["Resources"] for node in nodes if node["Alive"]]


def device_of(config: Config) -> str:
    """The resolved ``model.device``: ``auto`` is CUDA if the connected cluster has a GPU."""
    if config.model.device != "auto":
        return config.model.device
    if ray.is_initialized():
        return "cuda" if any(node.gpus > 0 for node in cluster_nodes()) else "cpu"
    if not _has_cuda_driver():
        return "cpu"
    use_expandable_segments()  # before torch is imported: some commands compute in this process
    import torch  # takes seconds to import

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_bfloat16(config: Config, device: str) -> bool | None:
    """Whether every GPU of the connected cluster has bfloat16; None: see this machine's device.

    Ray names the kind of GPU of a node among its resources.
    """
    if device != "cuda" or not cluster_address(config) or not ray.is_initialized():
        return None
    kinds = {
        name.partition(":")[2]
        for resources in _resources()
        for name in resources
        if name.startswith("accelerator_type:")
    }
    return WITHOUT_BFLOAT16.isdisjoint(kinds) if kinds else None


def _has_cuda_driver() -> bool:
    """Whether NVIDIA's driver is installed here: without its library torch finds no GPU either."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
