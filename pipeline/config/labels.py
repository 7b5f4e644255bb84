"""The section ``labels`` of the configuration: what becomes of boxes and masks of a sample."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.sections import Section, Share


class Labels(Section):
    """Labels of a sample that follow its image: boxes in COCO's terms, and masks of classes."""

    boxes: str = Field(
        "boxes.json",
        description="Suffix of the file with the boxes of a sample, as `overpaint pack` writes it. "
        "Its boxes are written in pixels of the edited image.",
    )
    masks: list[str] = Field(
        ["seg.png"],
        description="Suffixes of masks whose values are classes or instances. They are resized "
        "like the image, without blending values; 0 in the padding.",
    )
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
        " Whole words, in any case.",
    )

    @model_validator(mode="after")
    def _relabel_knows_classes(self) -> Labels:
        if self.on_overlap == "relabel" and not self.classes:
            raise ValueError(
                "labels.on_overlap=relabel needs labels.classes: '{cat: 17, dog: 18}', the numbers "
                "of categories by word"
            )
        return self
