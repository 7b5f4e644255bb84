"""Packs rows and images into the form that the page embeds and its script reads."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.records.part import Status
from pipeline.records.printable import printable
from pipeline.report.images import SmallImages
from pipeline.report.outputs import Output

IMAGES_IN_CHUNK = 96  # images in one script element
LINES = "\n\t\u2028\u2029"  # white space of a text, which moves nothing on the page
MAX_TEXT = 400  # characters of a caption, edit text or message; the Parquet file has all of it

Row = dict[str, Any]  # of the Parquet file


@dataclass
class Packed:
    """The images added so far, each distinct one once as a base64 line, within a limit of bytes."""

    room: int  # bytes left
    lines: list[str] = field(default_factory=list)
    # by row index: line numbers of before, after, mask
    of_row: dict[int, list[int | None]] = field(default_factory=dict)
    numbers: dict[bytes, int] = field(default_factory=dict)

    def add(self, row_index: int, images: SmallImages) -> bool:
        """Adds the images of a row if there is room for all of them; returns whether there was."""
        files = [images.before, images.after, images.mask]
        new = {file for file in files if file is not None and file not in self.numbers}
        size = sum(4 * math.ceil(len(file) / 3) + 1 for file in new)
        if size > self.room:
            return False
        self.room -= size
        for file in files:
            if file in new:
                self.numbers[file] = len(self.lines)
                self.lines.append(base64.b64encode(file).decode("ascii"))
                new.remove(file)
        if images.before is not None or images.after is not None:
            numbers = [None if file is None else self.numbers[file] for file in files]
            self.of_row[row_index] = numbers
        return True

    def chunks(self) -> list[str]:
        starts = range(0, len(self.lines), IMAGES_IN_CHUNK)
        return ["\n".join(self.lines[start : start + IMAGES_IN_CHUNK]) for start in starts]


def row_tree(found: Output, rows: list[Row]) -> tuple[dict[str, Any], int]:
    """The rows in the script's format, without images, and their size in bytes."""
    shards = sorted({row["shard"] for row in rows})
    shard_numbers = {name: number for number, name in enumerate(shards)}
    reasons = sorted({reason for row in rows if (reason := reason_of(row)) is not None})
    reason_numbers = {reason: number for number, reason in enumerate(reasons)}
    statuses = [str(status) for status in Status]
    packed = []
    for row in rows:
        reason = reason_of(row)
        packed.append(
            [
                shard_numbers[row["shard"]],
                printable(row["key"], keep=LINES),
                row["edit_index"],
                statuses.index(row["status"]) if row["status"] in statuses else None,
                None if reason is None else reason_numbers[reason],
                _short(row["message"]),
                _short(row["caption"]),
                _short(row["edit_text"]),
                _short("; ".join(row["notes"] or [])) or None,
                row["width"],
                row["height"],
                *(_rounded(row[score.name]) for score in found.scores),
                *(None, None, None),
            ]
        )
    tree = {
        "shards": [printable(name, keep=LINES) for name in shards],
        "statuses": statuses,
        "reasons": [printable(reason, keep=LINES) for reason in reasons],
        "scores": [asdict(score) for score in found.scores],
        "images_in_chunk": IMAGES_IN_CHUNK,
        "rows": packed,
    }
    return tree, len(script_json(tree)) + 24 * len(rows)  # room for the images' numbers


def reason_of(row: Row) -> str | None:
    """Why an edit failed or was rejected: "stage: kind of error"; None if it was not."""
    if row["status"] in (Status.EDITED, Status.UNCHANGED) or not row["error"]:
        return None
    return f"{row['stage']}: {row['error']}" if row["stage"] else str(row["error"])


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _short(text: str | None) -> str | None:
    if text is None:
        return None
    short = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
    return printable(short, keep=LINES)


def number_of(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _rounded(value: float | None) -> float | str | None:
    """The value to five significant digits; infinity (PSNR of equal images) as a text."""
    if value is None or math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return float(f"{value:.5g}")
