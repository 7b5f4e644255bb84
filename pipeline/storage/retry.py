"""Which storage errors pass by themselves, and how long to wait before trying again."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

log = logging.getLogger(__name__)

ATTEMPTS = 6  # 0.2 + 0.4 + 0.8 + 1.6 + 3.2 s of waiting at most, on top of the client's own retries
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0

# What s3fs makes of 503, 429, 409 (EBUSY) and 500 (EREMOTEIO), and what the kernel says of a link.
TRANSIENT_ERRNOS = {
    getattr(errno, name)
    for name in (
        *("EBUSY", "EREMOTEIO", "EAGAIN", "EINTR", "EIO", "ETIMEDOUT", "ESTALE", "EPIPE"),
        *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED"),
        *("ENETUNREACH", "ENETDOWN", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)
}
TRANSIENT_HTTP = {408, 409, 425, 429, 500, 502, 503, 504}
# The clients' classes by name, so that no client needs to be installed to know them.
TRANSIENT_CLASSES = {
    "HTTPClientError",  # botocore
    "ResponseParserError",  # botocore: a rate limit's answer may be no XML
    "IncompleteReadError",
    "IncompleteRead",  # http.client
    "ClientConnectionError",  # aiohttp
    "ClientPayloadError",
    "ServiceRequestError",  # azure.core
    "ServiceResponseError",
}
CLIENTS = {"botocore", "aiobotocore", "aiohttp", "azure", "google", "gcsfs", "adlfs"}
PERMANENT = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)


class StorageError(OSError):
    """What a store holds cannot be used: the errors of this package have it as their parent."""


class ShortReadError(StorageError):
    """A read gave another number of bytes than the object has; tried again from its start."""


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: a busy server, a broken link, a body cut short.

    Wrong credentials, missing objects and full disks are not transient: they would only be
    reported later.
    """
    if isinstance(error, PERMANENT):
        return False
    if isinstance(error, ShortReadError | TimeoutError | ConnectionError):
        return True
    status = _http_status(error)
    if status is not None:
        return status in TRANSIENT_HTTP
    if any(kind.__name__ in TRANSIENT_CLASSES for kind in type(error).__mro__):
        return True
    return isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS


def _http_status(error: BaseException) -> int | None:
    """The HTTP status behind an error of botocore (below s3fs's own), gcsfs or azure.core."""
    response = getattr(error.__cause__ or error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return int(status) if status is not None else None
    for name in ("status_code", "status", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int | str) and str(status).isdigit():
            return int(status)
    return None


def _named(error: Exception, what: str) -> Exception:
    """The error, saying what was asked of which store where it does not say so itself."""
    if isinstance(error, PermissionError) and error.filename is None:  # s3fs: "Forbidden"
        return PermissionError(f"{what}: {error or type(error).__name__}; check the credentials")
    if type(error).__module__.partition(".")[0] in CLIENTS and not isinstance(error, OSError):
        return StorageError(f"{what}: {type(error).__name__}: {error}")
    return error


def with_retries(call: Callable[[], Result], *, what: str) -> Result:
    """Calls until it succeeds, at most ``ATTEMPTS`` times, with jittered, doubling waits.

    Args:
        call: takes nothing; every attempt starts from zero.
        what: named in the log, e.g. "get 00042.tar".

    Raises:
        Exception: the last attempt's error, or the first one that is not transient. A client's own
            classes come as StorageError, so that a command ends in one line.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:
            if attempt == ATTEMPTS or not is_transient(error):
                named = _named(error, what)
                if named is error:
                    raise
                raise named from error
            wait_s = min(FIRST_WAIT_S * 2 ** (attempt - 1), LONGEST_WAIT_S)
            wait_s *= random.uniform(0.5, 1.0)
            log.warning(
                "%s: %s; attempt %d of %d follows in %.1f s",
                what, type(error).__name__, attempt + 1, ATTEMPTS, wait_s,
            )  # fmt: skip
            time.sleep(wait_s)
    raise AssertionError("unreachable")
