"""Writes the image's lock file: python -m infra.docker.lock

pip resolves what the image installs within ``constraints.txt``, from PyPI alone, and says which
file it takes of each library. The lock holds these with their sha256, for Linux on x86-64 and the
Python that runs this: Python 3.11, as in the image.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path(__file__).with_name("requirements.lock")
CONSTRAINTS = ROOT / "constraints.txt"
# hatchling builds Overpaint itself, without the network, once it is installed.
WANTED = (".[cluster,s3,gcs,azure]", "hatchling")
OURS = "overpaint"
HEAD = """\
# What the image installs, with the sha256 of each file; Linux on x86-64, Python 3.11.
# Written by: python -m infra.docker.lock
"""


def main() -> int:
    items = resolve()
    missing = unconstrained(items)
    for line in missing:
        print(f"constraints.txt has not: {line}", file=sys.stderr)
    if missing:
        return 1
    LOCK.write_text(lock_text(items))
    print(f"{LOCK}: {len(items)} libraries")
    return 0


def resolve() -> list[dict[str, Any]]:
    """pip's report of what it would install: one entry for each library, without Overpaint."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_CERT": os.environ.get("PIP_CERT", "")}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--index-url", "https://pypi.org/simple", "--only-binary", ":all:"]
    command += ["--constraint", str(CONSTRAINTS), "--report", "-", *WANTED]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    items: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return [item for item in items if name_of(item) != OURS]


def unconstrained(items: list[dict[str, Any]]) -> list[str]:
    """The libraries that ``constraints.txt`` does not fix, as lines for it."""
    fixed = {line.partition("==")[0] for line in CONSTRAINTS.read_text().splitlines()}
    known = {normalized(name) for name in fixed}
    return [
        f"{item['metadata']['name']}=={item['metadata']['version']}"
        for item in items
        if name_of(item) not in known
    ]


def lock_text(items: list[dict[str, Any]]) -> str:
    """The lock file, sorted by name."""
    lines = [HEAD]
    for item in sorted(items, key=name_of):
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name_of(item)}=={item['metadata']['version']} \\\n")
        lines.append(f"    --hash=sha256:{digest}\n")
    return "".join(lines)


def name_of(item: dict[str, Any]) -> str:
    return normalized(item["metadata"]["name"])


def normalized(name: str) -> str:
    """A library's name in the one spelling that indexes use."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
