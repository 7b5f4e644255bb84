"""What became of one edit in memory; in a notebook it shows before, mask and after."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass, field

from PIL import Image

from pipeline.images.errors import ImageError
from pipeline.images.files import decode_image
from pipeline.records.rows import Row

HEIGHT = 256  # of an image in a notebook, in pixels


@dataclass(frozen=True)
class EditResult:
    """An edit as a run publishes it.

    Attributes:
        row: what a run writes into its Parquet file.
        members: the files that a run writes into its tar, by suffix; empty unless ``row.status`` is
            ``edited`` or ``rejected``.
        source: the bytes of the image file before the edit.
        suffix: of the edited image, in ``members``.
        max_pixels: ``input.max_pixels`` of the configuration.
    """

    row: Row
    members: dict[str, bytes] = field(repr=False)
    source: bytes = field(repr=False)
    suffix: str
    max_pixels: int = field(repr=False)

    @property
    def before(self) -> Image.Image | None:
        """The image before the edit, in RGB; None if it cannot be decoded."""
        try:
            found, _ = decode_image(self.source, max_pixels=self.max_pixels, suffixes=["img"])
        except ImageError:
            return None
        return found

    @property
    def image(self) -> Image.Image | None:
        """The edited image in RGB, composite included; None if there is none: see ``row``."""
        return self._decoded(self.suffix, "RGB")

    @property
    def mask(self) -> Image.Image | None:
        """The edit mask in mode L at the size of ``image``, 255 = edit; None if there is none."""
        return self._decoded("mask.png", "L")

    def _decoded(self, suffix: str, mode: str) -> Image.Image | None:
        data = self.members.get(suffix)
        return None if data is None else Image.open(io.BytesIO(data)).convert(mode)

    def _repr_html_(self) -> str:
        """For notebooks: before, mask and after, with both texts, or the reason why there is none.

        Texts are escaped, and images are inline: nothing is fetched.
        """
        row = self.row
        shown = ((self.before, row.caption), (self.mask, "mask"), (self.image, row.edit_text))
        cells = [
            f'<td style="text-align:left"><img height="{HEIGHT}" src="{_data_url(image)}">'
            f"<br>{html.escape(text or '')}</td>"
            for image, text in shown
            if image is not None
        ]
        reason = ": ".join(text for text in (row.status, row.stage, row.error, row.message) if text)
        line = "" if row.status == "edited" else f"<p>{html.escape(reason)}</p>"
        return f"<table><tr>{''.join(cells)}</tr></table>{line}"


def _data_url(image: Image.Image) -> str:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"
