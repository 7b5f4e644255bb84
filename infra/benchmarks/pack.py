"""Compares ``overpaint pack`` with a script that writes the same tars with webdataset alone.

    nice python -m infra.benchmarks.pack --out infra/benchmarks/pack.json

Both read the same folder of small JPEGs and the same CSV and write tars of equal bytes, pair by
pair in one process. The script checks, counts and records nothing.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from webdataset import ShardWriter

from jobs.benchmark.machine import describe_machine
from pipeline.config.pack import Packing
from pipeline.pack.plan import make_pack_plan
from pipeline.pack.write import run_pack

SIDE, IN_SHARD, WANTED = 64, 1000, 0.8
TAR = {"mtime": 0, "user": "overpaint", "group": "overpaint", "mode": 0o644}


def main() -> None:
    """Draws the folder, times both in turn, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overpaint-pack-") as home:
        photos = Path(home, "photos")
        draw(photos, arguments.images)
        pairs = [compare(Path(home), photos, number) for number in range(arguments.pairs)]
    ratio = statistics.median(pair["script_s"] / pair["pack_s"] for pair in pairs)
    report = {
        "images": arguments.images,
        "image_side": SIDE,
        "machine": describe_machine("cpu", 1),
        "pairs": pairs,
        "pack_images_per_s": rate(arguments.images, pairs, "pack_s"),
        "script_images_per_s": rate(arguments.images, pairs, "script_s"),
        "median_of_ratios": round(ratio, 2),
        "wanted": WANTED,
        "met": ratio >= WANTED,
    }
    print(json.dumps(report, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def draw(folder: Path, count: int) -> None:
    """Small JPEGs of noise, and the table of their captions."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    with open(folder / "captions.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "text"])
        for number in range(count):
            pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", quality=85)
            table.writerow([f"{number:06d}.jpg", f"a photo of thing number {number}, in color"])


def compare(home: Path, photos: Path, number: int) -> dict[str, float]:
    """Seconds of both; which comes first alternates."""
    ways: list[tuple[str, Callable[[Path, Path], None]]] = [("pack_s", pack), ("script_s", script)]
    seconds: dict[str, float] = {}
    digests = set()
    for name, way in ways if number % 2 else reversed(ways):
        output = home / f"{name}-{number}"
        start = time.perf_counter()
        way(photos, output)
        seconds[name] = round(time.perf_counter() - start, 3)
        tars = [path.read_bytes() for path in sorted(output.glob("*.tar"))]
        digests.add(hashlib.sha256(b"".join(tars)).hexdigest())
    assert len(digests) == 1, "the tars are not of the same bytes"
    return seconds


def pack(photos: Path, output: Path) -> None:
    tree: dict[str, Any] = {
        "source": {"paths": [str(photos)]},
        "output": {"path": str(output)},
        "pack": {"samples_per_shard": IN_SHARD},
    }
    run_pack(make_pack_plan(Packing.model_validate(tree)))


def script(photos: Path, output: Path) -> None:
    """What one would write without the command."""
    output.mkdir()
    pattern = str(output / "%05d.tar")
    with (
        open(photos / "captions.csv", newline="", encoding="utf-8") as file,
        ShardWriter(pattern, maxcount=IN_SHARD, encoder=False, verbose=0, **TAR) as shards,
    ):
        for row in csv.DictReader(file):
            name = row["file_name"]
            sample = {
                "__key__": Path(name).stem,
                "jpg": (photos / name).read_bytes(),
                "txt": row["text"].encode(),
                "json": json.dumps({"pack": {"source": name}}).encode(),
            }
            shards.write(sample)


def rate(images: int, pairs: list[dict[str, float]], name: str) -> float:
    return round(images / statistics.median(pair[name] for pair in pairs), 1)


if __name__ == "__main__":
    main()
