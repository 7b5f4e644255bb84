"""Checks before a command starts that it may write its output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EROFS

from pipeline.config.load import ConfigError
from pipeline.storage.store import Store

REFUSALS = (PermissionError, NotADirectoryError, FileExistsError)


def check_writable(output: Store, named: str | None = None) -> None:
    """Refuses an output that cannot be written: no permission, read-only, a file in its place.

    Args:
        output: the store; a bucket gets a small object for a moment, a folder is only looked at.
        named: how the user named it, e.g. "output.path='out'"; default: its url.

    Raises:
        ConfigError: names the output and the reason.
    """
    try:
        output.check_writable()
    except OSError as error:
        raise ConfigError(f"{named or output.url}: {error or type(error).__name__}") from error


@contextmanager
def before_the_start(named: str) -> Iterator[None]:
    """Around the first writes of a run: a refusal is the configuration's fault.

    ``check_writable`` may have been told otherwise, e.g. by a network file system. A store that
    only does not answer raises as ever, since running again may help.

    Raises:
        ConfigError: the store refuses to be written.
    """
    try:
        yield
    except OSError as error:
        numbers = {getattr(item, "errno", None) for item in (error, error.__cause__)}
        if isinstance(error, REFUSALS) or EROFS in numbers:
            raise ConfigError(f"{named}: cannot be written: {error}") from error
        raise
