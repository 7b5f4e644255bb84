"""``overpaint verify``: prints what a full audit of an output found."""

from __future__ import annotations

import sys

from pipeline.steps.verify import verify
from pipeline.storage.store import Store


def verify_output(path: str) -> int:
    """Returns 0 if everything published is whole and accounted for, else 1."""
    report = verify(Store(path))
    for problem in report.problems:
        print(problem, file=sys.stderr)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(report.counts.items()))
    print(f"{report.num_shards} shards, {report.num_rows} rows: {counts or 'none'}")
    print("verified" if not report.problems else f"{len(report.problems)} problems")
    return 1 if report.problems else 0
