"""Keys of packed samples: the image's path without its suffix, safe in a tar and unique."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pipeline.steps.output_keys import output_key

NOT_UTF8 = re.compile("[\udc80-\udcff]")  # bytes of a local file's name, as Python reads them


def unique_keys(names: Sequence[str]) -> list[str]:
    """A key for each name; names that differ by their suffix alone keep it, as ``%2Ejpg``.

    Args:
        names: paths with "/" between folders, no two alike.
    """
    keys = [safe_key(name.rpartition(".")[0] or name) for name in names]
    while len(set(keys)) < len(keys):  # a whole name is no other one, so this ends
        counts = Counter(keys)
        keys = [
            safe_key(name) if counts[key] > 1 else key
            for name, key in zip(names, keys, strict=True)
        ]
    return keys


def safe_key(name: str) -> str:
    """The name as a key: dots, control characters and bytes that are not UTF-8 as %XX.

    Escapes are written so that no two names have the same key.
    """
    encoded = output_key(name, 0).removesuffix("_0")
    return NOT_UTF8.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", encoded)
