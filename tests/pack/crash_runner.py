"""Kills a process at every storage call of a pack, resumes it, and prints the differences.

python -m tests.pack.crash_runner FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.pack.packing import draw, pack
from tests.stores.killed_at_each_call import sweep

NAMES = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/broken.png", "dog/3.png")


def main(folder: Path) -> None:
    tree = folder / "tree"
    draw(tree, NAMES)
    (tree / "dog/broken.png").write_bytes(b"no image")

    def packed(output: Path) -> None:
        pack(output, tree, samples_per_shard=3)

    print(json.dumps(sweep(folder, packed)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
