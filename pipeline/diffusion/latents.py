"""Operations on latents besides diffusion: blending, and conversion between torch and numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def blend(edited: Tensor, background: Tensor, edit_mask: Tensor) -> Tensor:
    """The edited latent inside the mask, the background outside.

    Args:
        edited: (N, C, h, w).
        background: (N, C, h, w), of the same noise level.
        edit_mask: (N, 1, h, w) in [0, 1], 1 = edit, 0 = keep.

    Returns:
        (N, C, h, w); exactly ``edited`` where the mask is 1, exactly ``background`` where it is 0.

    Source: DiffEdit, arXiv:2210.11427, step 3.
    """
    return edit_mask * edited + (1.0 - edit_mask) * background


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The tensor as a numpy array; bfloat16, which numpy lacks, becomes its bits in uint16."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return tensor.numpy()


def from_numpy(array: np.ndarray | None) -> Tensor:
    """The inverse of ``to_numpy``: uint16 is read as bfloat16 bits (no latent is an integer).

    Shares the array's memory, except that of a read-only array, which torch does not know.
    """
    assert array is not None, "an earlier stage sets it for every pending sample"
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


def stacked(arrays: Sequence[np.ndarray | None], *, pinned: bool = False) -> Tensor:
    """(N, ...): arrays of one shape and dtype, as ``from_numpy`` reads them; copied once.

    Args:
        arrays: at least one.
        pinned: the result is in pinned memory, from which a GPU copies beside other work.
    """
    given = [array for array in arrays if array is not None]
    assert len(given) == len(arrays), "an earlier stage sets it for every pending sample"
    dtype = torch.from_numpy(np.empty(0, given[0].dtype)).dtype
    tensor = torch.empty((len(given), *given[0].shape), dtype=dtype, pin_memory=pinned)
    np.stack(given, out=tensor.numpy())
    return tensor.view(torch.bfloat16) if dtype == torch.uint16 else tensor
