"""DiffEdit's mask: where the noise predicted under two texts differs, scaled per image.

# M noise draws (of all levels), C channels, h w latent grid
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN_RATIO_CLAMP = 3.0  # diffusers' mask_thresholding_ratio: values above 3 means are clamped
OTSU_BINS = 256
SUPPLIED_COVERAGE = 0.25  # a latent cell is edited if the supplied mask covers this share of it


def relative_difference(eps_source: Tensor, eps_target: Tensor) -> Tensor:
    """How much the noise predicted under two texts differs, in standard deviations of the noise.

    Args:
        eps_source: (M, C, h, w) float32, predicted with the reference text.
        eps_target: same shape, predicted with the edit text for the same noisy latents.

    Returns:
        (h, w) float32, at least 0: the mean over draws and channels of the absolute difference,
        divided by the root mean square of ``eps_source``. Exactly 0 where the two are equal.

    Raises:
        ValueError: the shapes differ, or M is 0.

    Source: DiffEdit, arXiv:2210.11427, step 1 (M = 10); the paper does not fix the channel norm.
    """
    if eps_source.shape != eps_target.shape or len(eps_source) == 0:
        raise ValueError(f"eps of shapes {eps_source.shape} and {eps_target.shape}")
    difference = (eps_target - eps_source).abs().mean(dim=(0, 1))
    scale = eps_source.square().mean().sqrt()
    return difference / scale.clamp_min(torch.finfo(scale.dtype).tiny)


def smooth(values: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``sigma`` cells over (h, w) with replicated edges; 0 changes nothing."""
    if sigma == 0.0:
        return values
    radius = max(1, math.ceil(3.0 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(values[None, None], (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1))[0, 0]


def rescale(difference: Tensor, rule: str, *, clamp_percentile: float = 99.0) -> Tensor:
    """Scales a difference map to [0, 1], ready for thresholding.

    Args:
        difference: (h, w) float32, at least 0.
        rule: minmax and otsu clamp at a percentile, then stretch from the smallest to the largest
            value; mean_ratio divides by three times the mean and clamps at 1.
        clamp_percentile: values above this percentile count as extreme and are clamped.

    Returns:
        (h, w) float32 in [0, 1]; all 0 if the map is flat (minmax, otsu) or all 0 (mean_ratio).

    Source: DiffEdit, step 1: "remove extreme values, rescale". mean_ratio is diffusers' rule, but
    with the mean of the image instead of the batch.
    """
    if rule == "mean_ratio":
        low, high = torch.zeros_like(difference.mean()), MEAN_RATIO_CLAMP * difference.mean()
    else:
        low = difference.min()
        high = torch.quantile(difference.flatten(), clamp_percentile / 100.0)
    if not high > low:
        return torch.zeros_like(difference)
    return ((difference - low) / (high - low)).clamp(0.0, 1.0)


def otsu_threshold(values: Tensor) -> float:
    """The threshold in [0, 1] that maximizes the variance between the two classes.

    Args:
        values: (h, w) in [0, 1].

    Source: Otsu, 1979; histogram of 256 bins. If several thresholds tie, their mean is taken.
    """
    histogram = torch.histc(values.double().cpu(), bins=OTSU_BINS, min=0.0, max=1.0)
    centers = (torch.arange(OTSU_BINS, dtype=torch.float64) + 0.5) / OTSU_BINS
    below = histogram.cumsum(0)[:-1]
    above = histogram.sum() - below
    sums = (histogram * centers).cumsum(0)
    mean_below = sums[:-1] / below.clamp_min(1.0)
    mean_above = (sums[-1] - sums[:-1]) / above.clamp_min(1.0)
    between = below * above * (mean_above - mean_below) ** 2
    best = torch.nonzero(between >= between.max() * (1.0 - 1e-12)).flatten()
    return (best.double().mean().item() + 1.0) / OTSU_BINS


def cut_mask(
    difference: Tensor,
    *,
    rule: str = "minmax",
    threshold: float = 0.5,
    clamp_percentile: float = 99.0,
    floor: float = 0.02,
    smooth_sigma: float = 0.0,
    dilate: int = 0,
    soft: bool = False,
) -> tuple[Tensor, Tensor]:
    """The mask of one edit, and the rescaled map that it is thresholded from.

    Args:
        difference: (h, w) float32, from ``relative_difference``.
        rule: minmax, mean_ratio or otsu (which ignores ``threshold``).
        threshold: cells above it in the rescaled map are edited.
        clamp_percentile: see ``rescale``.
        floor: cells whose difference is at or below this, in standard deviations of the predicted
            noise, are never edited, whatever the rescaled map says; at 0 any difference counts.
        smooth_sigma: Gaussian blur of the difference map, in cells.
        dilate: how many cells the mask is dilated by.
        soft: the mask holds the rescaled map's values instead of 1.

    Returns:
        The mask and the rescaled map, both (h, w) float32 in [0, 1].
    """
    difference = smooth(difference, smooth_sigma)
    values = rescale(difference, rule, clamp_percentile=clamp_percentile)
    cut = otsu_threshold(values) if rule == "otsu" else threshold
    mask = ((values > cut) & (difference > floor)).to(values.dtype)
    mask = dilated(mask, dilate)
    return (mask * values if soft else mask), values


def dilated(mask: Tensor, cells: int) -> Tensor:
    """A binary mask, (h, w) float32, dilated by ``cells`` on every side, diagonals included."""
    return F.max_pool2d(mask[None, None], 2 * cells + 1, stride=1, padding=cells)[0, 0]


def mask_from_pixels(pixels: Tensor, size: tuple[int, int], *, soft: bool = False) -> Tensor:
    """Converts a supplied mask to the latent grid.

    Args:
        pixels: (H, W) uint8, 255 = edit.
        size: (h, w) of the latent grid; H and W are multiples of them.
        soft: the mask holds the covered share of each cell instead of 1.

    Returns:
        (h, w) float32. A cell is edited if the mask covers at least a quarter of it. The mask
        overshoots a little, as DiffEdit's own masks do, and thin shapes do not vanish.
    """
    coverage = F.adaptive_avg_pool2d(pixels.float()[None, None] / 255.0, size)[0, 0]
    mask = (coverage >= SUPPLIED_COVERAGE).to(coverage.dtype)
    return mask * coverage if soft else mask
