"""What one sample may take: beyond it, the sample is a failed row and costs no memory.

A sample's caption, JSON and passed-through files are written with each of its edits, so a few
kilobytes of input could become gigabytes of output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized

from pipeline.steps.texts import SampleError

MAX_EDITS = 1000  # of one sample
MAX_TEXT_BYTES = 16 << 10  # of a caption or an edit text; text encoders read 512 tokens at most
MAX_JSON_BYTES = 1 << 20
MAX_FILE_BYTES = 256 << 20
MAX_COPIED_BYTES = 512 << 20  # of what is written with each edit, times the edits
MAX_PART_BYTES = 1 << 30  # of a part's encoded images and copies; a part closes before


def check_files(members: Mapping[str, Sized]) -> None:
    """
    Raises:
        SampleError: a file, or the JSON, is larger than allowed.
    """
    for suffix, data in members.items():
        limit = MAX_JSON_BYTES if suffix == "json" else MAX_FILE_BYTES
        if len(data) > limit:
            message = f"the member .{suffix} has {len(data)} bytes; at most {limit} are read"
            raise SampleError("TooLarge", message)


def check_texts(
    caption: str, texts: Sequence[str], metadata_bytes: int, extras: Mapping[str, bytes]
) -> None:
    """
    Raises:
        SampleError: the caption or an edit text is too long, there are too many edit texts, or the
            copies for all of them take more than ``MAX_COPIED_BYTES``.
    """
    if len(texts) > MAX_EDITS:
        raise SampleError("TooManyEdits", f"{len(texts)} edit texts; at most {MAX_EDITS} are read")
    for what, text in (("the caption", caption), *(("an edit text", text) for text in texts)):
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > MAX_TEXT_BYTES:
            message = f"{what} has {size} bytes; at most {MAX_TEXT_BYTES} are read"
            raise SampleError("TooLarge", message)
    copied = (metadata_bytes + sum(len(data) for data in extras.values())) * len(texts)
    if copied > MAX_COPIED_BYTES:
        raise SampleError(
            "TooLarge",
            f"its JSON and passed-through files, once for each of {len(texts)} edits, take "
            f"{copied} bytes; at most {MAX_COPIED_BYTES} are written",
        )
