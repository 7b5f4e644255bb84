"""Member names in the output tar: unique for each edit, and never outside of the archive."""

from __future__ import annotations

import re

META_FOLDER = re.compile(r"^_(?=_[^/]*__/)")  # webdataset's readers skip the members of __name__/

# A dot ends the key in webdataset; "%" is the escape character itself; a backslash separates
# folders on Windows; control characters break listings.
# A loader that takes "jpg;png;webp" must find the edit, whatever format it has.
IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})

ENCODED = re.compile(r"[%.\\\x00-\x1f\x7f]")


def output_key(key: str, edit_index: int) -> str:
    """The key of an edit's members, ``<key>_<edit index>``, unique for each edit.

    ``%``, ``.``, backslash and control characters are encoded as %XX. So are a slash at the start,
    a slash after a slash, and the first underscore of a leading folder ``__name__``. The result has
    no "..", is not an absolute path, and is not skipped by webdataset's readers.
    """
    encoded = ENCODED.sub(_percent, key)
    encoded = re.sub(r"(?:^|(?<=/))/", "%2F", encoded)
    encoded = META_FOLDER.sub("%5F", encoded)
    return f"{encoded}_{edit_index}"


def output_suffix(suffix: str, reserved: set[str]) -> str:
    """The suffix of a member that is passed through: its own, or ``source.<suffix>``.

    ``source.`` is prefixed if the suffix is in ``reserved`` (the suffixes of the edit's own
    members), if it begins with an underscore (webdataset's writer would skip it), with a dot or
    with ``source.``, or if it is empty (webdataset's readers would skip it).
    """
    encoded = re.sub(r"[%\\\x00-\x1f\x7f]", _percent, suffix)
    if suffix in reserved or suffix.startswith(("_", ".", "source.")) or not suffix:
        return f"source.{encoded}"
    return encoded


def _percent(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"
