"""Names of members in the output tar: one for each (key, edit), none that leaves its folder."""

from __future__ import annotations

import re

META_FOLDER = re.compile(r"^_(?=_[^/]*__/)")  # webdataset's readers leave out all that is in it

# A dot would end the key (webdataset); a percent sign is what the others are written with; a
# backslash is a folder's end on Windows; control characters break listings.
ENCODED = re.compile(r"[%.\\\x00-\x1f\x7f]")


def output_key(key: str, edit_index: int) -> str:
    """The key of an edit's members, ``<key>_<edit index>``, different for different edits.

    ``%``, ``.``, backslash and control characters are written as %XX, and so is a slash that
    would begin the name or an empty folder, and the first underscore of a folder ``__so__`` that
    begins the name: no "..", no absolute path, nothing that webdataset's readers would leave out.
    """
    encoded = ENCODED.sub(_percent, key)
    encoded = re.sub(r"(?:^|(?<=/))/", "%2F", encoded)
    encoded = META_FOLDER.sub("%5F", encoded)
    return f"{encoded}_{edit_index}"


def output_suffix(suffix: str, reserved: set[str]) -> str:
    """The suffix of a member that is passed through: ``source.<suffix>`` where its own is taken.

    ``reserved`` are the suffixes that the edit itself is written with. A leading underscore would
    be skipped by webdataset's writer, and an empty suffix by its readers.
    """
    encoded = re.sub(r"[%\\\x00-\x1f\x7f]", _percent, suffix)
    if suffix in reserved or suffix.startswith(("_", ".", "source.")) or not suffix:
        return f"source.{encoded}"
    return encoded


def _percent(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"
