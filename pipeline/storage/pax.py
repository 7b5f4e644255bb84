"""The records of a pax header, which say more of the next member than its own header can."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Extended:
    """What extended headers say of the next member."""

    name: str | None = None
    link: str | None = None
    size: int | None = None
    sparse: bool = False
    sparse_name: str | None = None


def read_pax(content: bytes, extended: Extended) -> bool:
    """Reads the records "LENGTH KEY=VALUE\\n"; returns whether all of them are valid."""
    place = 0
    while place < len(content):
        if content[place] == 0:  # some writers pad with zeros
            return not content[place:].strip(b"\0")
        digits, space, _ = content[place : place + 20].partition(b" ")
        if not space or not digits.isdigit():
            return False
        end = place + int(digits)
        key, equals, value = content[place + len(digits) + 1 : end].partition(b"=")
        if end > len(content) or not equals or not value.endswith(b"\n"):
            return False
        if not _take(extended, key, value[:-1].decode("utf-8", "surrogateescape")):
            return False
        place = end
    return True


def _take(extended: Extended, key: bytes, value: str) -> bool:
    """Keeps a pax record that matters here. Returns whether its value is valid."""
    if key == b"path":
        extended.name = value
    elif key == b"GNU.sparse.name":
        extended.sparse_name, extended.sparse = value, True
    elif key.startswith(b"GNU.sparse."):
        extended.sparse = True
    elif key == b"linkpath":
        extended.link = value
    elif key == b"size":
        if not (value.isascii() and value.isdigit() and len(value) < 20):
            return False
        extended.size = int(value)
    return True
