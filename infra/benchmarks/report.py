"""Measures how the report of a large output opens: time to the first gallery, memory of the page.

    python -m infra.benchmarks.report --out infra/benchmarks/report.json

Draws an output of 10,000 edits (without a model), writes its report, and opens it several times
from disk, each time in a new headless Chromium. The page measures the time itself: from the start
of navigation until the first cards exist and the images in the window are decoded. Memory is that
of the process that renders the page, after the gallery was scrolled to its end, searched and
sorted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from pipeline.report.page import REPORT_FILE, write_report
from pipeline.storage.store import Store
from tests.browser import Page, chromium, find_browser
from tests.drawn_output import make_output

WANTED = {"first_gallery_s": 3.0, "page_memory_mb": 500.0, "problems": 0}
SCROLLS = 40
MARK = "performance.getEntriesByName('gallery')[0].startTime"


def main() -> None:
    """Draws the output, measures its report, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="keep the output here, and reuse it if it exists"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    binary = find_browser()
    if binary is None:
        sys.exit("no Chromium is installed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        store = Store(str(folder / "out"))
        if not store.list():
            make_output(folder, arguments.edits, size=arguments.size)
        report = measure(store, binary, arguments.repeats)
    report["edits"], report["picture_side"] = arguments.edits, arguments.size
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)


def measure(store: Store, binary: str, repeats: int) -> dict[str, Any]:
    """Writes the report and opens it ``repeats`` times; returns medians and maxima."""
    start = time.perf_counter()
    written = write_report(store)
    write_s = time.perf_counter() - start
    runs = [open_once(Path(store.url) / REPORT_FILE, binary) for _ in range(repeats)]
    gallery = [run["first_gallery_s"] for run in runs]
    memory = [run["page_memory_mb"] for run in runs]
    problems = [problem for run in runs for problem in run.pop("problems")]
    return {
        "first_gallery_s": {"median": statistics.median(gallery), "worst": max(gallery)},
        "page_memory_mb": {"median": statistics.median(memory), "worst": max(memory)},
        "problems": problems,
        "wanted_below": WANTED,
        "met": max(gallery) < WANTED["first_gallery_s"]
        and max(memory) < WANTED["page_memory_mb"]
        and not problems,
        "write_s": round(write_s, 1),
        "page_bytes": written.size_bytes,
        "edits_in_gallery": written.num_rows,
        "edits_with_pictures": written.num_with_images,
        "runs": runs,
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "platform": platform.platform(),
            "chromium": version(binary),
        },
    }


def open_once(path: Path, binary: str) -> dict[str, Any]:
    """Opens the page in a new browser and uses it."""
    with chromium(binary) as page:
        page.open(path)
        page.wait_for_gallery()
        first = page.run(MARK) / 1000
        page.wait("document.readyState === 'complete'")
        loaded = page.run("performance.timing.loadEventEnd - performance.timing.navigationStart")
        heap = page.run("performance.memory.usedJSHeapSize")
        seconds = use(page)
        memory = renderer_memory(page.process.pid)
        return {
            "first_gallery_s": round(first, 3),
            "loaded_s": round(loaded / 1000, 3),
            "page_memory_mb": round(memory["rss"] / 1e6, 1),
            "page_private_mb": round(memory["uss"] / 1e6, 1),
            "script_heap_mb": round(heap / 1e6, 1),
            **seconds,
            "problems": list(page.problems),
        }


def use(page: Page) -> dict[str, float]:
    """Scrolls through the whole gallery, sorts and searches; returns the seconds of sorting."""
    page.run("all = document.getElementById('count').textContent.split(' ')[0]")
    frame = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
    for number in range(SCROLLS + 1):
        page.run(f"scrollTo(0, document.body.scrollHeight * {number} / {SCROLLS})")
        page.run(frame)
    sorting = page.run(
        "(() => { const start = performance.now(); const box = document.getElementById('sort');"
        "box.value = '1'; box.dispatchEvent(new Event('change', {bubbles: true}));"
        "return performance.now() - start; })()"
    )
    page.run(frame)
    page.run(
        "(() => { const box = document.getElementById('search'); box.value = 'owl snow';"
        "box.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    page.wait("document.getElementById('count').textContent.split(' ')[0] !== all")
    return {"sort_s": round(sorting / 1000, 3)}


def renderer_memory(pid: int) -> dict[str, int]:
    """Resident and private bytes of the largest renderer below a browser's process."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        if "--type=renderer" in child.cmdline():
            memory = child.memory_full_info()
            found.append({"rss": memory.rss, "uss": memory.uss})
    return max(found, key=lambda memory: memory["rss"])


def version(binary: str) -> str:
    """The browser's version."""
    command = [binary, "--version", "--no-sandbox"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
