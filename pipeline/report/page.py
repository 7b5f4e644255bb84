"""Writes ``_run/report.html``: a page that opens from disk, loads nothing and escapes all texts."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.config.config import Config
from pipeline.config.run import Report
from pipeline.records.printable import printable
from pipeline.report.figures import cost, counts, histograms, reasons, stage_table
from pipeline.report.gallery import Gallery, make_gallery
from pipeline.report.images import ShardImages
from pipeline.report.outputs import Output, read_output
from pipeline.report.packing import LINES, script_json
from pipeline.storage.saved_inputs import saved_inputs
from pipeline.storage.store import Store

REPORT_FILE = "_run/report.html"
FOLDER = Path(__file__).parent
SCRIPTS = ("data.js", "card.js", "list.js", "controls.js")  # concatenated into one scope
SPARE_BYTES = 16_384  # reserved for the elements around the image chunks


@dataclass(frozen=True)
class Written:
    """What ``write_report`` has written, for the message to the user."""

    name: str  # in the output
    size_bytes: int
    num_rows: int  # in the gallery
    num_with_images: int


def write_report(
    output: Store, config: Config | None = None, overrides: list[str] | None = None
) -> Written:
    """Reads an output and writes its report, replacing an earlier one.

    Args:
        output: of a run, finished or not; published shards are shown.
        config: of the run, with the credentials of the input; None reads the output's own.
        overrides: "key=value" for ``report`` and ``input.storage_options``, if config is None.

    Raises:
        FileNotFoundError: nothing is published there.
        ConfigError: an override is not allowed.
        RunFileError: a file of ``_run/`` cannot be used.
    """
    found = read_output(output, overrides or [])
    config = config or found.config
    settings = config.report if config is not None else Report()
    reader = ShardImages(output, config, saved_inputs(output), settings.image_size)
    context = page_context(output.url, found, settings)
    frame = len(_render(context, Gallery({"rows": []}, [])).encode())
    room = settings.max_bytes - frame - SPARE_BYTES
    gallery = make_gallery(found, reader, settings, max(room, 0))
    page = _render(context, gallery).encode()
    output.put(REPORT_FILE, page)
    return Written(REPORT_FILE, len(page), gallery.num_rows, gallery.num_with_images)


def page_context(url: str, found: Output, settings: Report) -> dict[str, Any]:
    """The template's variables, except for the gallery's."""
    by_status = counts(found)
    return {
        "url": url,
        "run": {} if found.run is None else asdict(found.run),
        "config": found.config,
        "environment": {} if found.environment is None else asdict(found.environment),
        "summary": asdict(found.summary),
        "counts": by_status,
        "num_edits": sum(by_status.values()),
        "num_shards": len(found.markers),
        "num_read": found.rows.num_rows,
        "shards_read": len(set(found.texts("shard"))),
        "unreadable": found.unreadable,
        "problems": {
            name: marker.problem for name, marker in found.markers.items() if marker.problem
        },
        "stages": stage_table(found),
        "cost": cost(found, settings),
        "histograms": histograms(found),
        "reasons": reasons(found),
        "max_bytes": settings.max_bytes,
    }


def _render(context: dict[str, Any], gallery: Gallery) -> str:
    """Renders the page. The template escapes all texts; ``script_json`` escapes the data."""
    style = _text("page.css")
    script = "\n".join(['"use strict";\n(() => {', *(_text(name) for name in SCRIPTS), "})();"])
    return _template().render(
        context,
        gallery=gallery,
        style=Markup(style),  # safe: read from this package
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
        data=Markup(script_json(gallery.tree)),
        chunks=[Markup(chunk) for chunk in gallery.chunks],  # base64
    )


@cache
def _template() -> jinja2.Template:
    """The page's template; compiling it takes longer than to render a small output."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["clock"] = clock
    return environment.get_template("page.html.j2")


def _shown(value: object) -> object:
    """A text of the template's variables without control characters."""
    is_data = isinstance(value, str) and not isinstance(value, Markup)
    return printable(str(value), keep=LINES) if is_data else value


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """The hash of a script or style for the page's content security policy."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def number(value: float, digits: int = 4) -> str:
    """Formats a number: integers with thousands separators, others with ``digits`` digits."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.{digits}g}"


def clock(seconds: float) -> str:
    """Formats a duration."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
