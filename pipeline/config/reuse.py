"""The configuration's section ``method.reuse``: features that serve several steps."""

from __future__ import annotations

from pydantic import Field

from pipeline.config.sections import Count, Section


class Reuse(Section):
    """Evaluations of a UNet that compute its outermost layers only: DeepCache, beyond the paper."""

    interval: Count = 1  # every so many steps the whole network is computed; 1 = always
    layers: int = Field(1, ge=1)  # of the first block down and the last block up: what is computed
    encode: bool = False  # in encoding too, whose error decoding then does not undo
