"""Asks the hub: busy servers and broken connections again, and errors become sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub.errors import SafetensorsParsingError

from pipeline.models.hub_errors import (
    ConnectionLostError,
    HubError,
    HubOfflineError,
    HubUnreachableError,
    Wanted,
    explained,
    refined,
)
from pipeline.storage.retry import with_retries

Result = TypeVar("Result")


def asked(call: Callable[[], Result], what: str, *, patient: bool = True) -> Result:
    """The hub's answer. Busy servers and broken connections are asked again, with backoff.

    Args:
        call: one request.
        what: names it in the log.
        patient: also ask again if there is no connection at all.
    """

    def attempt() -> Result:
        try:
            return call()
        except Exception as error:
            better = refined(error)
            offline = isinstance(better, HubOfflineError)
            if patient and isinstance(better, HubUnreachableError) and not offline:
                better = ConnectionLostError(str(better))
            if better is error:
                raise
            raise better from error

    return with_retries(attempt, what=what)


@contextmanager
def in_words(wanted: Wanted) -> Iterator[None]:
    """Raises whatever goes wrong inside as a ``HubError``, which is one line."""
    try:
        yield
    except HubError:
        raise
    except (OSError, ValueError, SafetensorsParsingError) as error:
        raise explained(error, wanted) from error
