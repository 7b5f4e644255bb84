"""The base class of every section of the configuration, and the types that sections share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from pipeline.config.spelling import did_you_mean

Ratio = Annotated[float, Field(gt=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
LONGEST_S = 1e9  # seconds: thirty years, which every clock and timer of Python can count
Count = Annotated[int, Field(ge=1)]


def count_or(*words: str) -> BeforeValidator:
    """Makes one error that names both choices, for a field that is a count or one of a few words.

    Without it pydantic reports an error for each of the two.
    """

    def check(value: Any) -> Any:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not is_count and value not in words:
            allowed = f"input should be an integer of at least 1, or {' or '.join(words)}"
            raise ValueError(allowed + did_you_mean(value, words))
        return value

    return BeforeValidator(check)


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values are never changed silently.

    Numbers that no clock, store or array can take are errors too, and so is NUL in a text.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _usable(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("input should be less than 2^63")
        if isinstance(value, str) and "\0" in value:
            raise ValueError("input should be a text without NUL")
        return value
