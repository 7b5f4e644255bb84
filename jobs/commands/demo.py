"""``overpaint demo`` and ``overpaint demo-data``: draw shards of the demo world, and edit them."""

from __future__ import annotations

import sys
from pathlib import Path

from jobs.edit.driver import edit
from jobs.edit.writable import check_writable
from jobs.logs import tell
from jobs.terminal import show
from pipeline.config.config import Config
from pipeline.demo.dataset import write_demo_input, write_demo_shards
from pipeline.report.contact_sheet import contact_sheet
from pipeline.storage.store import Store


def demo(config: Config, home: Path, *, verbose: bool) -> int:
    """Draws the demo's input below ``home``, edits it, and draws a contact sheet.

    Returns:
        The exit code of the job.
    """
    check_writable(Store(str(home)))
    if not (home / "in/trouble.json").is_file():  # written after the shards
        write_demo_input(home / "in")
    code, plan = edit(config, verbose=verbose)
    if code == 0:
        sheet = contact_sheet(plan)
        if sheet is not None:
            path = home / "contact_sheet.png"
            path.write_bytes(sheet)
            tell(f"before, difference, mask, after: {path}", to=sys.stdout)
    return code


def demo_data(output: str, num_shards: int, num_samples: int, seed: int) -> int:
    """Draws shards of the demo world, with the true mask and the true result of each sample."""
    check_writable(Store(output))
    write_demo_shards(Path(output), num_shards, num_samples, seed)
    show(f"{num_shards} shards of {num_samples} samples: {output}")
    return 0
