"""The texts of a sample: its JSON, its caption, and its edit texts (given, or substituted)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, SupportsBytes

from pipeline.config.input import Input

MAX_DEPTH = 100  # of key.json's nesting: later code reads and writes it recursively


# Settings that key.json may give for its sample; the method checks the ranges.
SETTINGS = ("encode_ratio", "strength", "guidance_scale", "seed")
NO_NUMBER = "in the member .json, NaN and numbers that are too large were read as null"
MAX_NAMES, MAX_NAME = 3, 40  # names in a note, and characters of one
MAX_DIGITS = 4000  # of an integer; Python reads no more than 4300
LINE_END = re.compile(r"\r\n?|\n")


class SampleError(Exception):
    """Why a sample cannot be edited: the kind of error and a message.

    Attributes:
        skips: nothing is wrong: the run's substitutions ask for no edit of this sample.
    """

    def __init__(self, kind: str, message: str, *, skips: bool = False) -> None:
        super().__init__(message)
        self.kind, self.message, self.skips = kind, message, skips


def parse_json(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """The JSON object of ``key.json``, and notes on what was not read.

    A ``.json`` that holds no object (a list, a number, null, nothing) is other people's: it is left
    unread, with a note. NaN and infinite numbers, which many writers put for a missing value, are
    null, and so are integers of more than ``MAX_DIGITS`` digits. Of a name that stands twice in an
    object the last value is read, as all readers do, and a note says so.

    Raises:
        SampleError: it is not UTF-8, not valid JSON, or nested deeper than ``MAX_DEPTH``.
    """
    too_deep = f"nested deeper than {MAX_DEPTH}"
    text = _decoded(data, "json")
    if not text.strip():
        return {}, ["the member .json is empty, so it was not read"]
    no_numbers: list[str] = []
    repeated: dict[str, None] = {}
    try:
        value = json.loads(
            text,
            parse_constant=no_numbers.append,
            parse_float=partial(_finite, no_numbers),
            parse_int=partial(_integer, no_numbers),
            object_pairs_hook=partial(_object, repeated),
        )
    except (ValueError, RecursionError) as error:
        reason = too_deep if isinstance(error, RecursionError) else str(error)
        raise SampleError("BadJson", f"the member .json cannot be read: {reason}") from error
    if not isinstance(value, dict):
        return {}, [f"the member .json is {_kind(value)}, not an object, so it was not read"]
    if _is_nested_deeper(value, MAX_DEPTH):
        raise SampleError("BadJson", f"the member .json cannot be read: {too_deep}")
    notes = [NO_NUMBER] if no_numbers else []
    if repeated:
        names = ", ".join(json.dumps(name[:MAX_NAME]) for name in list(repeated)[:MAX_NAMES])
        notes.append(f"in the member .json, {names} appears more than once: the last was read")
    return value, notes


def own_settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a sample's JSON gives for the sample; null is "not set"."""
    own = {name: metadata[name] for name in SETTINGS if metadata.get(name) is not None}
    seed = own.get("seed")
    if isinstance(seed, float) and seed.is_integer():  # as pandas writes a column with gaps
        own["seed"] = int(seed)
    return own


def caption_of(
    members: Mapping[str, SupportsBytes], metadata: dict[str, Any], config: Input
) -> str:
    """The caption: from the first entry of ``input.caption`` that is present and not blank.

    Raises:
        SampleError: there is none, or the first entry that is present is not a string.
    """
    for entry in config.caption:
        value = _field(entry, members, metadata)
        if value is None:
            continue
        if not isinstance(value, str):
            raise SampleError("BadCaption", f"{entry}: expected a string, got {_kind(value)}")
        if value.strip():
            return _unicode(value.strip(), entry)
    raise SampleError("NoCaption", f"no caption in {', '.join(config.caption)}")


def edit_texts_of(
    members: Mapping[str, SupportsBytes], metadata: dict[str, Any], caption: str, config: Input
) -> list[str]:
    """The edit texts: from the first entry of ``input.edits`` that is present, else substitutions.

    A member has one edit text per line. Blank lines at its end are ignored; a blank line before a
    text is an empty edit text. A JSON field has a string or a list of strings.

    Returns:
        At least one text. An empty text is an edit that was requested without a text.

    Raises:
        SampleError: there are no edit texts, or the entry is of another type.
    """
    for entry in config.edits:
        value = _field(entry, members, metadata)
        if value is None:
            continue
        if isinstance(value, str):
            is_field = ":" in entry
            texts = [value] if is_field else LINE_END.split(value.rstrip())
            if not is_field and texts == [""]:
                texts = []
        elif isinstance(value, list) and all(isinstance(text, str) for text in value):
            texts = value
        else:
            raise SampleError("BadEditText", f"{entry}: expected a string or a list of strings")
        if not texts:
            raise SampleError("NoEditText", f"{entry} is empty")
        return [_unicode(text.strip(), entry) for text in texts]
    texts = substituted(caption, config.substitutions)
    if texts:
        return texts
    names = ", ".join(config.edits)
    if config.substitutions:
        tried = "no word of input.substitutions occurs in the caption"
        raise SampleError("NoSubstitution", f"no edit text in {names}; {tried}", skips=True)
    raise SampleError("NoEditText", f"no edit text in {names}")


def substituted(caption: str, substitutions: Mapping[str, list[str]]) -> list[str]:
    """Edit texts made from a caption: one for each replacement of a word that occurs in it.

    Whole words are replaced, in any case, in the table's order. A replacement starts with a capital
    letter if the word in the caption does.
    """
    texts = []
    for word, replacements in substitutions.items():
        pattern = whole_word(word)
        if pattern.search(caption) is None:
            continue
        texts += [pattern.sub(partial(_cased, new), caption) for new in replacements]
    return texts


def whole_word(word: str) -> re.Pattern[str]:
    """A pattern that finds a whole word, in any case."""
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def _cased(replacement: str, found: re.Match[str]) -> str:
    return replacement[:1].upper() + replacement[1:] if found[0][:1].isupper() else replacement


def _field(entry: str, members: Mapping[str, SupportsBytes], metadata: dict[str, Any]) -> Any:
    """The value of ``txt`` (a member's text) or ``json:caption`` (a field); None if absent."""
    if entry.startswith("json:"):
        return metadata.get(entry.removeprefix("json:"))
    data = members.get(entry.lower())
    return None if data is None else _decoded(bytes(data), entry)


def _decoded(data: bytes, suffix: str) -> str:
    zero = data.find(b"\0")
    if zero >= 0:  # it may be valid UTF-8 all the same, and the model would read other words
        raise SampleError(
            "BadText", f"the member .{suffix} has a zero byte at {zero}: it is UTF-16, or no text"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SampleError(
            "BadText", f"the member .{suffix} is not UTF-8 at byte {error.start}"
        ) from error


def _unicode(text: str, entry: str) -> str:
    """The text, if it can be encoded: JSON escapes can spell half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SampleError(
            "BadText", f"{entry} has a lone surrogate, which is not a character"
        ) from error
    return text


def _is_nested_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested deeper than ``depth``."""
    level = [value]
    for _ in range(depth):
        mappings = [item.values() for item in level if isinstance(item, dict)]
        lists = [item for item in level if isinstance(item, list)]
        level = [child for children in (*mappings, *lists) for child in children]
    return any(isinstance(item, dict | list) for item in level)


def _finite(no_numbers: list[str], text: str) -> float | None:
    value = float(text)
    if math.isfinite(value):
        return value
    no_numbers.append(text)
    return None


def _integer(no_numbers: list[str], text: str) -> int | None:
    if len(text) <= MAX_DIGITS:
        return int(text)
    no_numbers.append(text)
    return None


def _object(repeated: dict[str, None], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of its names and values; names that stand twice are added to ``repeated``."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            repeated[name] = None
        found[name] = value
    return found


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")
