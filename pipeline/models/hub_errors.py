"""What went wrong at the hub: whether a retry may help, and a sentence that says what to do."""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

TOO_MANY_REQUESTS = 429
BUSY = {408, 425, TOO_MANY_REQUESTS}  # and every 5xx
CLIENTS = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}  # of the client
NO_ANSWER = {"ConnectError", "ConnectTimeout", "ConnectionError"}  # their classes, by name
CUT_SHORT = "Consistency check failed"  # the client's words for a body of another length


class HubBusyError(ConnectionError):
    """A request that is worth repeating; the name of a derived class stands in the log."""


class TooManyRequestsError(HubBusyError):
    """The hub answers 429."""


class HubServerError(HubBusyError):
    """The hub answers 5xx."""


class ConnectionLostError(HubBusyError):
    """The connection broke, in mid-body perhaps, or nothing came for a while."""


class HubUnreachableError(OSError):
    """There is no connection to the hub."""


class HubOfflineError(HubUnreachableError):
    """HF_HUB_OFFLINE is set, so the client does not ask."""


class HubError(FileNotFoundError):
    """The hub does not give what was asked for; the message says why and what to do."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of the hub, and the settings that ask for it.

    Attributes:
        option: the configuration key or command-line option that holds the id.
        name: the id, owner/name.
        revision: as it was given.
    """

    option: str
    name: str
    revision: str | None

    @property
    def key(self) -> str:
        """The settings with their values, for messages."""
        revision_key = self.option.removesuffix(".path") + ".revision"
        given = f", {revision_key}={self.revision!r}" if self.revision is not None else ""
        return f"{self.option}={self.name!r}{given}"


def refined(error: Exception) -> Exception:
    """An error of the client as ``HubBusyError`` or ``HubUnreachableError``, or as it is."""
    inner = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
    error = inner if isinstance(inner, Exception) else error  # "not cached, and the hub says no"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == TOO_MANY_REQUESTS:
            return TooManyRequestsError(_said(error))
        return HubServerError(_said(error)) if status in BUSY or status >= 500 else error
    if isinstance(error, HubBusyError | HubUnreachableError):
        return error
    if isinstance(error, OfflineModeIsEnabled):
        return HubOfflineError(_said(error))
    if type(error).__module__.partition(".")[0] in CLIENTS:
        names = {kind.__name__ for kind in type(error).__mro__}
        kind = HubUnreachableError if names & NO_ANSWER else ConnectionLostError
        return kind(f"{type(error).__name__}: {_said(error)}")
    if isinstance(error, OSError) and CUT_SHORT in str(error):
        return ConnectionLostError(_said(error))
    return error


def explained(error: Exception, wanted: Wanted) -> HubError:
    """The error in a sentence, with the settings, the hub's reason, and what to do."""
    error = refined(error)
    hub, page = constants.ENDPOINT, f"{constants.ENDPOINT}/{wanted.name}"
    if isinstance(error, GatedRepoError):
        if get_token() is None:
            todo = f"accept its licence on {page} and set HF_TOKEN to a token of that account"
        else:
            todo = f"the account of HF_TOKEN has no access; accept the licence on {page}"
        return HubError(f"{wanted.key}: a gated model, and the hub says: {_said(error)}; {todo}")
    if isinstance(error, RevisionNotFoundError):
        return HubError(
            f"{wanted.key}: the hub has this model, but no such revision; allowed are the "
            f"branches, tags and commits of {page}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return HubError(
            f"{wanted.key}: no such folder, and the hub says: {_said(error)}; check the spelling, "
            "and for a private model set HF_TOKEN to a token that may read it"
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return HubError(f"{wanted.key}: the hub lacks a file of this model: {_said(error)}")
    if isinstance(error, HfHubHTTPError):
        token = "HF_TOKEN may not read it" if get_token() else "HF_TOKEN is not set"
        status = error.response.status_code
        return HubError(
            f"{wanted.key}: the hub refuses with {status} and says: {_said(error)}; {token}; see "
            f"{page}"
        )
    if isinstance(error, HFValidationError):
        return HubError(f"{wanted.key}: no such folder, and not a hub id: {_said(error)}")
    if isinstance(error, HubOfflineError):
        revision = f" --revision {wanted.revision}" if wanted.revision else ""
        return HubError(
            f"{wanted.key}: no such folder, it is not in the hub's cache {constants.HF_HUB_CACHE}, "
            f"and HF_HUB_OFFLINE is set; fill the cache: `hf download {wanted.name}{revision}`"
        )
    if isinstance(error, HubUnreachableError):
        return HubError(
            f"{wanted.key}: no such folder, it is not in the hub's cache {constants.HF_HUB_CACHE}, "
            f"and the hub {hub} does not answer: {_said(error)}"
        )
    if isinstance(error, HubBusyError):
        return HubError(
            f"{wanted.key}: the hub {hub} failed again and again: {_said(error)}; what came is "
            "kept, and the same command goes on from there"
        )
    reason = f"{type(error).__name__}: {_said(error)}"
    return HubError(f"{wanted.key}: cannot fetch it into {constants.HF_HUB_CACHE}: {reason}")


def _said(error: Exception) -> str:
    """The hub's own reason if it gives one, else the first line of the error."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None) or {}
    said = getattr(error, "server_message", None) or headers.get("X-Error-Message")
    lines = [line.strip() for line in str(said or error).splitlines()]
    return next((line for line in lines if line), type(error).__name__).rstrip(".")
