"""The section ``labels`` of the configuration: what becomes of boxes and masks of a sample."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.sections import Section, Share


class Labels(Section):
    """What becomes of the boxes of a sample that the edit mask covers."""

    on_overlap: Literal["keep", "drop", "relabel"] = Field(
        "keep",
        description="A box that the edit mask covers. `keep`: it keeps its class. `drop`: it is "
        "left out. `relabel`: it takes the class that the edit text names and the caption does "
        "not; without one such class it is left out.",
    )
    min_cover: Share = Field(
        0.1, description="Share of a box that the edit mask covers at least, for `on_overlap`."
    )
    classes: dict[str, int] = Field(
        {},
        description="For `relabel`: numbers of categories by word (or words): `{cat: 17, dog: 18}`."
        " Whole words, in any case; the first word of a number is its name.",
    )

    @model_validator(mode="after")
    def _relabel_knows_classes(self) -> Labels:
        if self.on_overlap == "relabel" and not self.classes:
            raise ValueError(
                "labels.on_overlap=relabel needs labels.classes: '{cat: 17, dog: 18}', the numbers "
                "of categories by word"
            )
        return self
