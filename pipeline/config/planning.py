"""The section ``plan`` of the configuration: what is found out before a run spends."""

from __future__ import annotations

from typing import Annotated, Literal

from pipeline.config.sections import Section, count_or


class Planning(Section):
    """How a run's cost is found out; nothing here changes what is computed."""

    # Edits that are computed, and thrown away, to measure every step. auto: a few, where a size is
    # auto and no earlier run into this output says what its steps took.
    calibrate: Annotated[int | Literal["auto", "never"], count_or("auto", "never")] = "auto"
