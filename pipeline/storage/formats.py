"""The files that a shard may be: a tar, plain or compressed. Says what other bytes are."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from pipeline.storage.content import Content, FileContent, find_not_zero
from pipeline.storage.retry import StorageError
from pipeline.storage.scratch import Spool

# Ends of names, in any case, and pyarrow's name of the compression.
COMPRESSIONS: dict[str, Literal["gzip", "zstd"] | None] = {
    ".tar": None,
    ".tar.gz": "gzip",
    ".tgz": "gzip",
    ".tar.zst": "zstd",
}
MAGICS = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
USTAR = 257  # place of "ustar" in the first header of a tar
CHUNK = 1 << 20  # bytes
# Images hardly shrink, so a shard that grows more than this was made to fill the memory.
MAX_GROWTH, MIN_LIMIT = 20, 64 << 20

STARTS = {
    MAGICS["gzip"]: "it is compressed by gzip: give it a name that ends in .tar.gz",
    MAGICS["zstd"]: "it is compressed by zstd: give it a name that ends in .tar.zst",
    b"BZh": "it is compressed by bzip2: unpack it, or pack it with gzip or zstd",
    b"\xfd7zXZ\0": "it is compressed by xz: unpack it, or pack it with gzip or zstd",
    b"PK\3\4": "it is a zip file",
    b"PAR1": "it is a Parquet file",
    b"version https://git-lfs": "it is a pointer of Git LFS: fetch the content with git lfs pull",
}


class BadShardError(StorageError):
    """A shard that is no tar; or that cannot be read completely, if the run ends on those."""


def ending(name: str) -> str | None:
    """The end of a shard's name, as it is written there; None if it is no shard's name."""
    lower = name.lower()
    found = max((end for end in COMPRESSIONS if lower.endswith(end)), key=len, default=None)
    return name[-len(found) :] if found and not name.rpartition("/")[2].startswith(found) else None


def unpacked(name: str, data: Content) -> Content:
    """The tar in a shard's bytes.

    Args:
        name: of the shard, or its url; the end says whether it is compressed.
        data: as stored.

    Returns:
        The tar, on scratch disk if it was compressed and is large.

    Raises:
        BadShardError: the bytes cannot be unpacked, or grow beyond 64 MiB and 20 times their size.
    """
    compression = COMPRESSIONS[(ending(name) or ".tar").lower()]
    if compression is None:
        return data
    limit = max(MIN_LIMIT, MAX_GROWTH * len(data))
    tar = Spool()
    try:
        with pa.CompressedInputStream(file_of(data), compression) as stream:
            while chunk := stream.read(CHUNK):
                tar.write(chunk)
                if tar.size > limit:
                    raise BadShardError(
                        f"{name}: unpacks to more than {limit} bytes, {MAX_GROWTH} times its size"
                    )
    except OSError as error:
        if isinstance(error, BadShardError):
            raise
        reason = _why_packed_wrongly(data, compression) or " ".join(str(error).split())
        raise BadShardError(f"{name}: cannot be unpacked: {reason}") from error
    return tar.content(name)


def what_it_is(data: Content) -> str:
    """A sentence on bytes that hold no tar."""
    if not len(data):
        return "it is no tar: the file is empty"
    if find_not_zero(data, 0) < 0:
        return "it is no tar: all of its bytes are zeros, as in a download that was cut"
    start = data[:512].lstrip()
    for magic, sentence in STARTS.items():
        if data[: len(magic)] == magic:
            return f"it is no tar: {sentence}"
    if start[:1] in (b"<", b"{"):
        return f"it is no tar but text, perhaps a server's answer: {start[:60]!r}"
    return f"it is no tar: no header can be read; it begins with {data[:16]!r}"


def file_of(data: Content) -> pa.NativeFile:
    """What pyarrow reads a content from."""
    if isinstance(data, FileContent):
        return pa.PythonFile(data.stream())
    return pa.BufferReader(data[:])


def _why_packed_wrongly(data: Content, compression: str) -> str | None:
    """What bytes are that do not begin as compressed ones do; None if they do."""
    if data[: len(MAGICS[compression])] == MAGICS[compression]:
        return None
    if data[USTAR : USTAR + 5] == b"ustar":
        return "it is a tar that is not compressed: give it a name that ends in .tar"
    return what_it_is(data)
