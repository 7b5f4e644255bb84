"""``overpaint demo`` and ``overpaint demo-data``: draw shards of the demo world, and edit them."""

from __future__ import annotations

from pathlib import Path

from jobs.edit.driver import edit
from jobs.terminal import show
from pipeline.config.config import Config
from pipeline.demo.dataset import write_demo_input, write_demo_shards
from pipeline.report.contact_sheet import contact_sheet


def demo(config: Config, home: Path, *, verbose: bool) -> int:
    """Draws the demo's input below ``home``, edits it, and draws a contact sheet.

    Returns:
        The exit code of the job.
    """
    if not (home / "in/trouble.json").is_file():  # written after the shards
        write_demo_input(home / "in")
    code, plan = edit(config, verbose=verbose)
    if code == 0:
        sheet = contact_sheet(plan)
        if sheet is not None:
            path = home / "contact_sheet.png"
            path.write_bytes(sheet)
            show(f"before, difference, mask, after: {path}")
    return code


def demo_data(output: str, num_shards: int, num_samples: int, seed: int) -> int:
    """Draws shards of the demo world, with the true mask and the true result of each sample."""
    write_demo_shards(Path(output), num_shards, num_samples, seed)
    show(f"{num_shards} shards of {num_samples} samples: {output}")
    return 0
