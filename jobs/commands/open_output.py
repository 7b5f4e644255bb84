"""Opens the output that a command names."""

from __future__ import annotations

from typing import Any

from pipeline.config.load import ConfigError, apply_override
from pipeline.storage.store import Store


def open_output(path: str, storage_options: list[str]) -> Store:
    """The store of an output, with options for fsspec as "key=value" (see ``apply_override``).

    Raises:
        ConfigError: the url is refused, an option is not "key=value", or the store does not answer.
    """
    options: dict[str, Any] = {}
    for option in storage_options:
        apply_override(options, option)
    try:
        output = Store(path, options)
        output.check_reachable()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"{path}: {error or type(error).__name__}") from error
    return output
