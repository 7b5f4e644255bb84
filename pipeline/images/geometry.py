"""Where the model's image lies in the original: whole pixels, so that both ways agree."""

from __future__ import annotations

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside


def fit(width: int, height: int, *, size: int, resize: str) -> tuple[Box, Box]:
    """Which box of the original becomes which box of the model's image.

    Args:
        width: of the original, pixels as seen (after EXIF rotation).
        height: likewise.
        size: pixels a side of the model's image.
        resize: crop, pad or stretch.

    Returns:
        (box in the original, box in the model's image). With crop the first one is the largest
        centred square, with pad the second one keeps the original's shape, centred.
    """
    whole_source, whole_target = (0, 0, width, height), (0, 0, size, size)
    if resize == "stretch":
        return whole_source, whole_target
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return (left, top, left + side, top + side), whole_target
    longer = max(width, height)
    new_width, new_height = (max(1, round(length * size / longer)) for length in (width, height))
    left, top = (size - new_width) // 2, (size - new_height) // 2
    return whole_source, (left, top, left + new_width, top + new_height)
