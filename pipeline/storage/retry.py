"""Which storage errors are transient, and retries with backoff."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.process.heartbeat import heartbeat
from pipeline.process.outage import OUTAGES
from pipeline.storage.traffic import note_traffic

Result = TypeVar("Result")

log = logging.getLogger(__name__)

# Waits of 0.2, 0.4, ... 10 s: half a minute in all, for a store that asks for fewer requests.
ATTEMPTS = 10
# For a run's first calls to a store that does not answer: the address is probably wrong.
FIRST_ATTEMPTS = 2
NO_ANSWER = {
    "EndpointConnectionError",  # botocore: refused, or no such host
    "ConnectTimeoutError",
    "ClientConnectorError",  # aiohttp
    "ServiceRequestError",  # azure.core
}
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0
# Attempts that time out take long by themselves: after this many seconds no new attempt starts, but
# every call gets at least three attempts.
MAX_RETRY_S = 60.0
MIN_ATTEMPTS = 3

# s3fs maps 503, 429 and 409 to EBUSY, 500 to EREMOTEIO; the others are the kernel's network errors.
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
# S3 answers 400 with these codes if a body arrived too slowly or damaged.
TRANSIENT_CODES = {"RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"}
# The clients' error classes, by name, so that no client has to be installed.
TRANSIENT_CLASSES = {
    "HTTPClientError",  # botocore: timeouts, closed connections
    *NO_ANSWER,
    "FlexibleChecksumError",  # botocore: the body does not match the response's checksum
    "ResponseParserError",  # botocore: a rate limit's response may not be XML
    "IncompleteReadError",
    "IncompleteRead",  # http.client
    "ClientConnectionError",  # aiohttp
    "ClientPayloadError",
    "ServiceResponseError",  # azure.core
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
    """A store failed, or its content cannot be used. The errors of this package derive from it."""


class ShortReadError(StorageError):
    """A read returned another number of bytes than the object has. It is retried."""


def is_transient(error: BaseException) -> bool:
    """Whether a retry may help: a busy server, a broken connection, a truncated body.

    Wrong credentials, missing objects and full disks are not transient: a retry would only delay
    the report.
    """
    if isinstance(error, PERMANENT):
        return False
    if isinstance(error, ShortReadError | TimeoutError | ConnectionError):
        return True
    if _error_code(error) in TRANSIENT_CODES:
        return True
    status = _http_status(error)
    if status is not None:
        return status in TRANSIENT_HTTP
    if _is_named(error, TRANSIENT_CLASSES):
        return True
    return isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS


def _is_named(error: BaseException, names: set[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _error_code(error: BaseException) -> str | None:
    """The error code in the response behind a botocore error."""
    response = getattr(error.__cause__ or error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def _http_status(error: BaseException) -> int | None:
    """The HTTP status behind an error of botocore (the cause of s3fs's), gcsfs or azure.core."""
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
    """The error, with the operation and the store in its message if it does not name them."""
    if isinstance(error, PermissionError) and error.filename is None:  # s3fs: "Forbidden"
        return PermissionError(f"{what}: {error or type(error).__name__}; check the credentials")
    if type(error).__module__.partition(".")[0] in CLIENTS:
        return StorageError(f"{what}: {type(error).__name__}: {error}")
    if type(error) in (OSError, TimeoutError):  # s3fs: "Please reduce your request rate"
        return StorageError(f"{what}: {str(error) or type(error).__name__}")
    return error


def with_retries(
    call: Callable[[], Result], *, what: str, first: bool = False, store: str | None = None
) -> Result:
    """Calls ``call``; retries transient errors with jittered, exponential backoff.

    Args:
        call: takes no arguments; every attempt starts from zero.
        what: names the operation in the log and in errors, e.g. "get 00042.tar".
        first: one of a run's first calls: gives up early if the store does not answer.
        store: that is called (``store_of``), so that its outages are told; None tells none.

    Raises:
        Exception: the last attempt's error, or the first one that is not transient. A client
            library's own errors are raised as StorageError, so that a command ends in one line.
    """
    start = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        heartbeat()
        try:
            result = call()
        except Exception as error:
            _note_outcome(store, error)
            attempts = FIRST_ATTEMPTS if first and _is_named(error, NO_ANSWER) else ATTEMPTS
            is_late = attempt >= MIN_ATTEMPTS and time.monotonic() - start > MAX_RETRY_S
            if attempt >= attempts or is_late or not is_transient(error):
                named = _named(error, what)
                if named is error:
                    raise
                raise named from error
            wait_s = min(FIRST_WAIT_S * 2 ** (attempt - 1), LONGEST_WAIT_S)
            wait_s *= random.uniform(0.5, 1.0)
            log.info(
                "%s: %s; attempt %d of %d in %.1f s",
                what, type(error).__name__, attempt + 1, attempts, wait_s,
            )  # fmt: skip
            note_traffic("retries", 1)
            time.sleep(wait_s)
        else:
            _note_outcome(store, None)
            return result
    raise AssertionError("unreachable")


def _note_outcome(store: str | None, error: Exception | None) -> None:
    """Tells the outages what became of an attempt; an error that is not transient is an answer."""
    if store is None:
        return
    if error is not None and is_transient(error):
        OUTAGES.failed(store, error)
    else:
        OUTAGES.answered(store)
