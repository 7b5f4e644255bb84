"""Finds credentials where they must not be: in urls, and in options that are written to a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# user:password@ of a url; for http also a lone token@. Not container@account of Azure's urls.
# A secret key may hold a slash; digits before one are a port.
IN_URL = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<user>[^/\s@:]*):(?!\d+/)(?P<word>[^\s@'\"]*)@", re.I
)
IN_HTTP = re.compile(r"(?P<scheme>\bhttps?://)(?P<word>[^/\s@]+)@", re.I)
# A signature or key in a url's query. "?" alone is a wildcard of a glob.
IN_QUERY = re.compile(
    r"(?P<name>[?&][\w.-]*(?:sig|signature|token|secret|password|credential|key)[\w.-]*=)"
    r"(?P<word>[^&\s'\"]+)",
    re.I,
)
HIDDEN = "..."

# Names of fsspec's options that hold credentials, whatever surrounds these words.
SECRET = re.compile(
    r"secret|passw|token|credential|private|connection_string"
    r"|(?:^|_)(?:key|keys|sas|pass|auth|bearer|cookie)(?:_|$)|account_key|api_?key|access_?key",
    re.I,
)
# Values of gcsfs's "token" that name a way to find credentials.
WAYS = frozenset({"google_default", "cloud", "anon", "cache", "browser"})


def redacted(text: str) -> str:
    """The text with "..." for passwords and tokens in its urls."""
    text = IN_URL.sub(rf"\g<scheme>\g<user>:{HIDDEN}@", text)
    text = IN_HTTP.sub(_without_word, text)
    return IN_QUERY.sub(rf"\g<name>{HIDDEN}", text)


def check_no_credentials(url: str) -> None:
    """Refuses a url with a password or a token: urls are printed, logged and written to outputs.

    Raises:
        ValueError: does not repeat the password.
    """
    if redacted(url) != url:
        raise ValueError(
            f"{redacted(url)!r}: credentials in a url are refused, since urls are logged and "
            "written into the output; set them in the environment or in storage_options"
        )


def secret_options(options: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """The dotted keys of fsspec options that hold credentials, also below nested mappings."""
    for name, value in options.items():
        key = f"{place}{name}"
        if isinstance(value, Mapping):
            yield from secret_options(value, f"{key}.")
        elif any(_is_secret(str(name), text) for text in _texts(value)):
            yield key


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [item for item in values if isinstance(item, str) and item]


def _is_secret(name: str, value: str) -> bool:
    if name == "token" and value in WAYS:
        return False
    return SECRET.search(name) is not None or redacted(value) != value


def _without_word(found: re.Match[str]) -> str:
    user, colon, _ = found["word"].partition(":")
    return f"{found['scheme']}{user}:{HIDDEN}@" if colon else f"{found['scheme']}{HIDDEN}@"
