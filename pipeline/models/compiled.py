"""Optional torch.compile for the network: its settings and the cache of compiled code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.config.model import Model

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# Distinct input shapes for each size of an image. Last micro-batches are padded to a power of two,
# and region decoding uses a few sizes.
MAX_SHAPES = 64


def compile_network(network: nn.Module, model: Model) -> None:
    """Sets up in-place compilation, which runs at the first call with each input shape.

    Args:
        network: a UNet or a transformer.
        model: ``compile`` is off (does nothing), default (fused kernels) or cuda_graphs (kernel
            launches are recorded too); ``compile_cache`` keeps compiled code for the next actor.

    Raises:
        PermissionError: see ``private_folder``.
    """
    if model.compile == "off":
        return
    os.environ[CACHE_VARIABLE] = private_folder(model.compile_cache)
    num_sizes = len(model.buckets) if isinstance(model.buckets, list) else 1
    torch._dynamo.config.recompile_limit = MAX_SHAPES * num_sizes
    torch._dynamo.config.accumulated_recompile_limit = 4 * MAX_SHAPES * num_sizes
    mode = "reduce-overhead" if model.compile == "cuda_graphs" else None
    network.compile(dynamic=False, mode=mode)


def private_folder(path: str | None) -> str:
    """The folder of compiled code, made if it is absent; only this user may write and read it.

    torch runs what it finds there, and its own default is a name in /tmp that anybody can guess
    and make first.

    Args:
        path: ``model.compile_cache``; None: that of the environment, else torch's own.

    Raises:
        PermissionError: the folder is another user's, or others may write to it.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    given = path or os.environ.get(CACHE_VARIABLE) or default_cache_dir()
    folder = os.path.realpath(os.path.expanduser(given))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.stat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(
            f"model.compile_cache={path!r}: the folder {folder} belongs to user {found.st_uid} and "
            f"has mode {found.st_mode & 0o777:o}, so others could place code in it that this run "
            "would execute; name a folder of your own that only you can write to"
        )
    os.chmod(folder, 0o700)
    return folder


@contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """Runs a compiled network uncompiled inside the context: fused kernels hide their FLOPs."""
    compiled = network._compiled_call_impl
    network._compiled_call_impl = None
    try:
        yield
    finally:
        network._compiled_call_impl = compiled
