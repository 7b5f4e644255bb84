"""Counts the memory that a model takes, from its configs alone: no weights, no arithmetic.

The networks are built on torch's meta device, whose tensors have shapes and no data, and are asked
once for one row and once for two. What is alive at each operation is added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.fx.experimental import _config as shapes
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.config.model import Model
from pipeline.diffusion.denoiser import Condition
from pipeline.models.autoencoder import keep_halves
from pipeline.models.components import vae_dtype
from pipeline.models.families import family_named
from pipeline.models.loading import DTYPES
from pipeline.models.memory_facts import CallMemory, CountedMemory
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.model_info import ModelInfo
from pipeline.models.network import NetworkDenoiser
from pipeline.models.probe import load_schedule
from pipeline.models.text_pipeline import load_text

LONG_TEXT = "dog " * 2000  # above every family's limit; some pad texts to the longest only
TRUTH = (torch.ops.aten.is_nonzero.default, torch.ops.aten._local_scalar_dense.default)
EQUAL = torch.ops.aten.equal.default


@torch.inference_mode()
def count_memory(info: ModelInfo, model: Model) -> CountedMemory:
    """Weights and activations of a model, for images of its largest size.

    Args:
        info: of a probed model, whose configs and tokenizers are here.
        model: the configuration's section; its dtype is not "auto".

    Raises:
        OSError, ValueError: a config or a tokenizer is missing.
        NotImplementedError: a network needs values, not only shapes.
    """
    family, dtype = family_named(info.family), DTYPES[model.dtype]
    sizes, grid = info.sizes_for(model), largest_grid(info, model)
    height, width = (info.latent_scale * cells for cells in grid[1:])
    folder, network_class = family.network
    network = empty_network(getattr(diffusers, network_class), info.folder / folder, dtype)
    family.prepare(network)
    text = load_text(
        info, lambda kind, name: empty_network(kind, info.folder / name, dtype), MicroBatch(2)
    )
    schedule = load_schedule(info, sizes.side)
    cleanest, level = schedule.level_at(0.0).sigma, schedule.level_at(0.5)
    denoiser = NetworkDenoiser(family, network, info.prediction_type, cleanest, info.latent_scale)
    vaes = {}
    for half in ("encoder", "decoder"):
        dtype_of_vae = vae_dtype(info, family, dtype)
        vaes[half] = empty_network(getattr(diffusers, family.vae), info.vae_folder, dtype_of_vae)
        keep_halves(vaes[half], [half])
        if model.vae_tiling_above is not None and sizes.largest > model.vae_tiling_above:
            vaes[half].enable_tiling()
    conditions: dict[int, Condition] = {}

    def encode_texts(rows: int) -> None:
        conditions[rows] = text.encode_texts([LONG_TEXT] * rows)

    def denoise(rows: int) -> None:
        denoiser(torch.empty(rows, *grid, device="meta"), level, conditions[rows])

    def encode(rows: int) -> None:
        pixels = torch.empty(rows, 3, height, width, dtype=torch.uint8, device="meta")
        family.encoded(vaes["encoder"], pixels.to(vaes["encoder"].dtype) / 127.5 - 1.0).float()

    def decode(rows: int) -> None:
        latents = torch.empty(rows, *grid, device="meta")
        family.decoded(vaes["decoder"], latents.to(vaes["decoder"].dtype)).float()

    of_texts = _calls(encode_texts)
    condition = conditions[1]
    return CountedMemory(
        network=weights_bytes(network),
        texts=sum(weights_bytes(tower.encoder) for tower in text.towers),
        encoder=weights_bytes(vaes["encoder"]),
        decoder=weights_bytes(vaes["decoder"]),
        condition=condition.tokens.nbytes
        + (0 if condition.pooled is None else condition.pooled.nbytes),
        of_network=_calls(denoise),
        of_texts=of_texts,
        of_encoder=_calls(encode),
        of_decoder=_calls(decode),
    )


def largest_grid(info: ModelInfo, model: Model) -> tuple[int, int, int]:
    """(C, h, w) of the latent of the largest image."""
    sizes = info.sizes_for(model)
    width, height = max(sizes.listed or [(sizes.side, sizes.side)], key=math.prod)
    return info.latent_channels, height // info.latent_scale, width // info.latent_scale


def weights_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    tensors: Iterable[Tensor] = [*network.parameters(), *network.buffers()]
    return sum(tensor.nbytes for tensor in tensors)


def empty_network(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A network of diffusers or transformers without data, in the dtypes that loading gives it."""
    with torch.device("meta"):
        if issubclass(kind, ModelMixin):
            config = kind.load_config(folder, local_files_only=True)
            network = kind.from_config(config).to(dtype)
        else:
            config = kind.config_class.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            network = kind(config)
            # transformers keeps some weights in float32, e.g. a fifth of T5 in float16
            kept = {*(network._keep_in_fp32_modules_strict or ())}
            kept |= {*(network._keep_in_fp32_modules or ())} if dtype == torch.float16 else set()
            for name, parameter in network.named_parameters():
                if not kept & set(name.split(".")):
                    parameter.data = parameter.data.to(dtype)
    return network.eval().requires_grad_(False)


def _calls(call: Callable[[int], None]) -> CallMemory:
    one, two = (peak_bytes(partial(call, rows)) for rows in (1, 2))
    return CallMemory(row=two - one, fixed=max(0, 2 * one - two))


def peak_bytes(
    call: Callable[[], None], attention: Callable[[], AbstractContextManager[object]] | None = None
) -> int:
    """The most bytes of tensors that are alive during a call and were made in it.

    Args:
        call: over tensors without data.
        attention: computes it as fused kernels do; None: as they do without a backward pass.
    """
    alive = _Alive()
    # masks that select are all true as well; torch adds ``patch`` to its configs at runtime
    with shapes.patch(meta_nonzero_assume_all_nonzero=True), (attention or _Fused)(), alive:  # type: ignore[attr-defined]
        call()
    return alive.peak


class _Fused(TorchFunctionMode):
    """Attention as the devices' fused kernels compute it, which keep no product of all tokens."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        query, value = given["query"], given["value"]
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Adds up the tensors without data that are alive after each operation.

    Where a network asks for values, masks are all true, and a number is the length of the mask that
    was summed up last: texts are as long as they can be.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length = self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        asked = args[0] if args and isinstance(args[0], Tensor) and args[0].is_meta else None
        if asked is not None and (func is EQUAL or (func in TRUTH and asked.dtype == torch.bool)):
            return True
        if asked is not None and torch.device(kwargs.get("device") or "meta").type == "cpu":
            filled = 1 if asked.dtype == torch.bool else self.length
            return torch.full(asked.shape, filled, dtype=kwargs.get("dtype") or asked.dtype)
        if asked is not None and func is torch.ops.aten.sum.dim_IntList:
            self.length = asked.shape[-1]
        outside = _storages((args, kwargs)).keys() - self._alive.keys()  # views of them are made
        made = func(*args, **kwargs)
        self._alive |= {key: one for key, one in _storages(made).items() if key not in outside}
        self._alive = {
            key: one
            for key, one in self._alive.items()
            if not one[0].expired()  # type: ignore[no-untyped-call]
        }
        self.peak = max(self.peak, sum(num_bytes for _, num_bytes in self._alive.values()))
        return made


def _storages(tree: Any) -> dict[int, tuple[StorageWeakRef, int]]:
    """The storages of tensors without data, and their bytes."""
    found = {}
    for tensor in tree_leaves(tree):
        if isinstance(tensor, Tensor) and tensor.is_meta:
            storage = tensor.untyped_storage()
            reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            found[reference.cdata] = reference, storage.nbytes()
    return found
