"""CSFID, the class-conditional distance of FlexIT's protocol, from given features."""

# N images, D feature dimensions.
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def csfid(
    edited: Mapping[str, NDArray[np.floating]], reference: Mapping[str, NDArray[np.floating]]
) -> float:
    """The squared distance between mean features of edits and of real images, over the classes.

    Unlike FID it does not compare covariances, which a handful of edits per class cannot estimate.

    Args:
        edited: by target class, (N, D) Inception pool3 features of the edits.
        reference: by class, (N, D) features of real images, or their mean (D,).

    Returns:
        The mean over the classes of ``edited`` of |mean(edited) - mean(reference)|^2.

    Raises:
        ValueError: there is no class, or a class has no edits or is not in ``reference``, or
            dimensions differ.

    Source: FlexIT (Couairon et al., arXiv:2203.04705), as DiffEdit's ImageNet curves use it.
    """
    if not edited:
        raise ValueError("CSFID needs the features of at least one class")
    distances = []
    for name, features in edited.items():
        if name not in reference:
            raise ValueError(f"class {name!r} has no reference features")
        if features.ndim != 2 or not len(features):
            raise ValueError(f"class {name!r}: features of shape {features.shape}, not (N, D)")
        real = np.asarray(reference[name], np.float64)
        real = real.mean(axis=0) if real.ndim == 2 else real
        if real.shape != features.shape[1:]:
            raise ValueError(f"class {name!r}: {features.shape[1:]} and {real.shape} do not agree")
        difference = features.astype(np.float64).mean(axis=0) - real
        distances.append(float(difference @ difference))
    return float(np.mean(distances))
