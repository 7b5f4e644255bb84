"""Follows a submitted job to its end: its log as it comes, then its exit code."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from jobs import exit_codes
from jobs.terminal import show, show_log

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

# How long the cluster may not answer (a busy head, a reopened tunnel) before the command gives up.
MAX_OUTAGE_S = 300.0
POLL_S = 1.0


def follow(client: JobSubmissionClient, job: str) -> int:
    """Prints the job's log as it comes; reconnects if the connection breaks.

    Returns:
        The job's own exit code; 1 if the cluster stops answering.
    """
    import aiohttp  # ray[default] requires it

    log = _Log(client, job)
    while True:
        try:
            asyncio.run(log.print_to_end())
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            show(f"{job}: the log's connection broke ({error}); reconnecting", to=sys.stderr)
        info = _info(client, job)
        if info is None:
            show(
                f"{job}: the cluster has not answered for {MAX_OUTAGE_S:.0f} s; the job may still "
                f"be running. To follow it: ray job logs --follow {job}; or submit again",
                to=sys.stderr,
            )
            return exit_codes.INCOMPLETE
        if info.status.is_terminal():
            return _exit_code(info, job)
        time.sleep(POLL_S)


def _info(client: JobSubmissionClient, job: str) -> JobDetails | None:
    """The cluster's record of a job; None if it does not answer for ``MAX_OUTAGE_S``."""
    deadline = time.monotonic() + MAX_OUTAGE_S
    while True:
        try:
            return client.get_job_info(job)
        except (OSError, RuntimeError):  # requests' errors are OSErrors
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_S)


def _exit_code(info: JobDetails, job: str) -> int:
    """The exit code of an ended job. Ray keeps none of a stopped job, so its status decides."""
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    show(f"{job}: {info.status.value}: {info.message}", to=sys.stderr)
    codes = {"SUCCEEDED": 0, "STOPPED": exit_codes.INTERRUPTED}
    return codes.get(info.status.value, exit_codes.INCOMPLETE)


class _Log:
    """A job's log. The server sends it from the beginning on each connection."""

    def __init__(self, client: JobSubmissionClient, job: str) -> None:
        self.client, self.job = client, job
        self.printed = 0  # characters

    async def print_to_end(self) -> None:
        """Prints what has not been printed yet, until the server closes the log."""
        seen = 0
        async for text in self.client.tail_job_logs(self.job):
            show_log(text[max(0, self.printed - seen) :])
            seen += len(text)
            self.printed = max(self.printed, seen)
