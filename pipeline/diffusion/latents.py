"""What is done to latents besides diffusion: blending, and going between torch and numpy."""

from __future__ import annotations

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
        (N, C, h, w); where the mask is 0 or 1 exactly the one or the other.

    Source: DiffEdit, arXiv:2210.11427, step 3.
    """
    return edit_mask * edited + (1.0 - edit_mask) * background


def to_numpy(tensor: Tensor) -> np.ndarray:
    """As numpy; bfloat16, which numpy lacks, as its bits in uint16."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return tensor.numpy()


def from_numpy(array: np.ndarray | None) -> Tensor:
    """The inverse of ``to_numpy``: uint16 holds the bits of bfloat16 (no latent is an integer)."""
    assert array is not None, "an earlier step sets it for every image that is in flight"
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor
