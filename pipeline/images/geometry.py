"""Maps between original and model image, in whole pixels, so that both directions agree."""

from __future__ import annotations

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside


def fit(width: int, height: int, *, size: int, resize: str) -> tuple[Box, Box]:
    """Maps a box of the original image to a box of the model's image.

    Args:
        width: of the original in pixels, after EXIF rotation.
        height: same.
        size: side of the model's image in pixels.
        resize: crop, pad or stretch.

    Returns:
        (box in the original, box in the model's image). With crop the first box is the largest
        centered square. With pad the second box is centered and has the original's aspect ratio.
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
