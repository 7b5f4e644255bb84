"""Where every draw of noise gets its seed: hashed from names, never from a counter or a clock."""

from __future__ import annotations

import hashlib


def noise_seed(
    run_seed: int, shard: str, key: str, purpose: str, edit_index: int | None = None
) -> int:
    """A seed for ``torch.Generator``, the same wherever and whenever the sample is computed.

    Args:
        run_seed: the run's seed, or the sample's own.
        shard: the input shard's name below the common prefix.
        key: the sample's key.
        purpose: what the noise is for, e.g. "mask".
        edit_index: only where edits of one image must draw different noise. The mask's noise
            must not differ: its reference half is shared by all edits of an image.

    Returns:
        An integer in [0, 2**63).
    """
    words = [str(run_seed), shard, key, purpose, "" if edit_index is None else str(edit_index)]
    return hash_words(*words) >> 1


def hash_words(*words: str) -> int:
    """An integer in [0, 2**64) that depends on the words, and on nothing else."""
    digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
