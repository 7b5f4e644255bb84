"""Which test files run in one process under pytest-xdist: those that share what takes seconds.

This takes the place of ``xdist_group``, which has no effect in pytest-xdist 3.8 with pytest 9.2.
"""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

# By file: the session fixture that it shares with other files.
SHARED = {
    "tests/jobs/edit/test_layouts.py": "ray_address",
    "tests/jobs/edit/test_planned_runs.py": "ray_address",
    "tests/jobs/edit/test_scores.py": "ray_address",
    "tests/jobs/supervise/test_starts.py": "recovered",
    "tests/jobs/test_logs.py": "recovered",
    "tests/stores/test_seaweedfs.py": "s3_server",
    "tests/stores/test_store_faults.py": "s3_server",
    "tests/stores/test_two_drivers.py": "s3_server",
    "tests/stores/test_whole_job.py": "s3_server",
}


class FilesTogether(LoadFileScheduling):
    """Hands out files, or several files at once where they share a fixture."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return SHARED.get(file, file)
