"""Asks the hub: busy servers and broken connections again, and errors become sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub import get_session
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

ANSWER_S = 20.0  # to wait for an answer; the client's own default is to wait forever
Result = TypeVar("Result")


def asked(call: Callable[[], Result], what: str, *, patient: bool = True) -> Result:
    """The hub's answer. Busy servers and broken connections are asked again, with backoff.

    Args:
        call: one request.
        what: names it in the log.
        patient: also ask again if there is no connection at all.
    """

    def attempt() -> Result:
        _limit_waiting()
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


def _limit_waiting() -> None:
    """Gives a limit to requests that the client sends without one, such as those of listings."""
    hooks = get_session().event_hooks["request"]
    if _limited not in hooks:
        hooks.append(_limited)


def _limited(request: Any) -> None:
    given = request.extensions.get("timeout") or {}
    names = ("connect", "read", "write", "pool")
    limits = {name: given.get(name) or ANSWER_S for name in names}
    request.extensions["timeout"] = limits


@contextmanager
def in_words(wanted: Wanted) -> Iterator[None]:
    """Raises whatever goes wrong inside as a ``HubError``, which is one line."""
    try:
        yield
    except HubError:
        raise
    except (OSError, ValueError, SafetensorsParsingError) as error:
        raise explained(error, wanted) from error
