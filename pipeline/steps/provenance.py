"""The member ``.json`` of an edited sample: how its image was made."""

from __future__ import annotations

import json
from typing import Any

from pipeline.records.part import Sample
from pipeline.records.rows import SCORE

# Only the row says what became of the edit, and at which size the model saw the image; what the
# mask covers of a box is in the boxes' own file. The other columns are also in the provenance.
NOT_PROVENANCE = {
    *("status", "stage", "error", "message", "output_key"),
    *("model_width", "model_height", "boxes_covered"),
}


def provenance(sample: Sample, row: dict[str, Any]) -> bytes:
    """The member .json: how the image was made, and the sample's own JSON under "source".

    Every field has one type in all edits, so that a loader may take the types from the first ones:
    scores that an edit cannot have, and the sample's own JSON, are inside of texts.
    """
    record = {
        name: value
        for name, value in row.items()
        if name not in NOT_PROVENANCE and not name.startswith(SCORE)
    }
    scores = {name: value for name, value in row.items() if name.startswith(SCORE)}
    known = {name: value for name, value in scores.items() if value is not None}
    record |= {
        "mask_box": row["mask_box"] or [0, 0, 0, 0],
        "notes": "; ".join(row["notes"]),
        "scores": json_text(known).decode(),
        "settings": json_text(row["settings"]).decode(),
        "source": json_text(sample.metadata).decode(),
    }
    return json_text(record, indent=1)


def json_text(value: Any, indent: int | None = None) -> bytes:
    """UTF-8. A lone surrogate in the sample's JSON stays an escape."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "backslashreplace")
