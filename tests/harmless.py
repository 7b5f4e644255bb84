"""Whether damage to a file with a digest changes what the file says."""

from __future__ import annotations

import json


def is_harmless(whole: bytes, damaged: bytes) -> bool:
    """True for white space, or the name of the digest's own field; False without a digest."""
    try:
        before, after = json.loads(whole), json.loads(damaged)
    except ValueError:
        return False
    digest = before.pop("digest", None) if isinstance(before, dict) else None
    return digest is not None and bool(
        before == {key: value for key, value in after.items() if value != digest}
    )
