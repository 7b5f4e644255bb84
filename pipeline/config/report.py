"""The section ``report`` of the configuration."""

from __future__ import annotations

from pydantic import Field

from pipeline.config.sections import Count, Section


class Report(Section):
    """The HTML page ``_run/report.html``; nothing here changes what is computed."""

    enabled: bool = True  # write it at the end of every run that computed something
    max_bytes: int = Field(40_000_000, ge=1_000_000)  # of the page, pictures and all
    max_edits: Count = 10_000  # in the gallery; of more a stratified sample
    picture_size: int = Field(256, ge=32, le=1024)  # pixels, the longer side of an embedded picture
    read_bytes: int = Field(4 * 1024**3, ge=0)  # of tars read for pictures; at least one is read
    price_per_device_hour: float | None = Field(None, ge=0.0)  # of a GPU; on a CPU run, of an actor
    currency: str = "USD"
