"""Folders to pack, and what a pack of them holds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.config.pack import Packing
from pipeline.pack.plan import make_pack_plan
from pipeline.pack.write import Packed, run_pack
from pipeline.storage.archive import read_members
from tests.samples import encode, pixels


def draw(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Writes an image for each name, each another one; returns the bytes by name."""
    drawn = {}
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix.lstrip(".").lower()
        drawn[name] = encode(pixels(number), "jpg" if suffix == "jpeg" else suffix)
        path.write_bytes(drawn[name])
    return drawn


def packing(output: Path | str, sources: Iterable[Path | str], **pack: Any) -> Packing:
    tree = {
        "pack": pack,
        "source": {"paths": [str(source) for source in sources]},
        "output": {"path": str(output)},
    }
    return Packing.model_validate(tree)


def pack(output: Path | str, *sources: Path | str, **settings: Any) -> Packed:
    return run_pack(make_pack_plan(packing(output, sources, **settings)))


def samples_of(output: Path) -> dict[str, dict[str, bytes]]:
    """The members of every sample by key, in the order of the shards."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(output.glob("*.tar")):
        members, problem = read_members(path.read_bytes())
        assert problem is None
        for name, data in members:
            key, _, suffix = name.partition(".")
            samples.setdefault(key, {})[suffix] = data
    return samples
