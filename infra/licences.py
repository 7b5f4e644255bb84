"""Checks the licences of the libraries that Overpaint installs: python -m infra.licences

The metadata of what is installed counts. A library with another licence is an error that names it,
until someone has read the licence and lists it here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageMetadata, PackageNotFoundError, distribution

from packaging.requirements import Requirement

ROOT = "overpaint"
# Of what runs, not of tools that only tests call.
EXTRAS = ("s3", "gcs", "azure", "cluster", "train")

# SPDX identifiers, and other names that metadata use for the same licences.
ALLOWED = frozenset(
    {
        *("0BSD", "APACHE-2.0", "BSD-2-CLAUSE", "BSD-3-CLAUSE", "CC0-1.0", "ISC", "MIT", "MIT-0"),
        *("MIT-CMU", "MPL-2.0", "PSF-2.0", "ZLIB", "CNRI-PYTHON", "BSL-1.0", "LLVM-EXCEPTION"),
        *("UNLICENSE", "HPND", "ZPL-2.1"),
        *("APACHE", "APACHE 2.0", "APACHE SOFTWARE LICENSE", "APACHE LICENSE, VERSION 2.0"),
        *("APACHE 2.0 LICENSE", "APACHE LICENSE 2.0", "APACHE-2", "THE UNLICENSE"),
        *("BSD", "BSD LICENSE", "3-CLAUSE BSD LICENSE", "BSD 3-CLAUSE LICENSE", "NEW BSD"),
        *("MIT LICENSE", "ISC LICENSE", "ISC LICENSE (ISCL)"),
        *("MOZILLA PUBLIC LICENSE 2.0 (MPL 2.0)", "PYTHON SOFTWARE FOUNDATION LICENSE"),
    }
)
# CUDA's libraries, which torch's wheels for GPUs require: NVIDIA's own terms allow to use and
# distribute them with an application.
PROPRIETARY = re.compile(r"nvidia-[\w-]+")


def main() -> int:
    wrong = list(unknown_licences(installed()))
    for line in wrong:
        print(line)
    print(f"{len(wrong)} libraries with a licence that infra/licences.py does not list")
    return 1 if wrong else 0


def installed() -> Iterator[PackageMetadata]:
    """The metadata of everything that an installation with all extras needs, if it is installed."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(ROOT, frozenset(EXTRAS))]
    while waiting:
        found = waiting.pop()
        if found in seen:
            continue
        seen.add(found)
        name, extras = found
        try:
            library: Distribution = distribution(name)
        except PackageNotFoundError:  # an extra that is not installed here
            continue
        if name != ROOT:
            yield library.metadata
        for text in library.requires or []:
            wanted = Requirement(text)
            applies = wanted.marker is None or any(
                wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            )
            if applies:
                waiting.append((wanted.name, frozenset(wanted.extras)))


def unknown_licences(libraries: Iterable[PackageMetadata]) -> Iterator[str]:
    """A line for each library whose licence is not listed, or that names none."""
    for metadata in libraries:
        name = metadata["Name"]
        names = licences_of(metadata)
        if not PROPRIETARY.fullmatch(name.lower()) and not _is_allowed(names):
            yield f"{name} {metadata['Version']}: {', '.join(sorted(names)) or 'no licence named'}"


def licences_of(metadata: PackageMetadata) -> set[str]:
    """The names of a library's licences, in capitals: its expression, else its classifiers."""
    given = _first(metadata, "License-Expression")
    if not given:
        classifiers = metadata.get_all("Classifier") or []
        found = {
            text.rpartition("::")[2].strip().upper()
            for text in classifiers
            if text.startswith("License ::")
        } - {"OSI APPROVED", "DFSG APPROVED"}
        if found:
            return found
        given = _first(metadata, "License").strip().partition("\n")[0]
    if given.upper() in ALLOWED:
        return {given.upper()}
    words = re.split(r"\s+(?:AND|OR|WITH)\s+|[()]", given, flags=re.IGNORECASE)
    return {word.strip().upper() for word in words if word.strip()}


def _first(metadata: PackageMetadata, field: str) -> str:
    return str(next(iter(metadata.get_all(field) or []), ""))


def _is_allowed(names: set[str]) -> bool:
    return bool(names) and names <= ALLOWED


if __name__ == "__main__":
    sys.exit(main())
