"""``overpaint submit``: the same run as a job of a Ray cluster, followed from here to its end.

The code of this installation and the resolved configuration travel as the job's working directory,
so that driver and workers run what was checked here; the libraries are the cluster's own, or are
installed there with ``--packages``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import shutil
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jobs import exit_codes
from jobs.edit.paths import relative_paths
from jobs.ray_environment import WANTS_TOKEN
from pipeline.config.config import Config
from pipeline.config.load import ConfigError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

PACKAGES = ("pipeline", "jobs")
# Ray kills a stopped job's driver after 3 s, unless told otherwise: it finishes parts in flight.
STOP_MARGIN_S = 30
# A head that is busy, a tunnel that is opened again: so long nobody needs to answer.
AWAY_S = 300.0
LOOK_EVERY_S = 1.0


def submit(config: Config, address: str, *, packages: bool, wait: bool) -> int:
    """Submits a run and follows its log.

    Submitting again is safe at any time, also while the first job still runs: the store says what
    is done, and two drivers on one output give the right bytes (where it has conditional puts).

    Args:
        config: the run; checked here, so that mistakes show before anything travels.
        address: of the cluster's dashboard, e.g. http://127.0.0.1:8265.
        packages: let Ray install the libraries on each node, for a cluster without them.
        wait: follow the log to the end.

    Returns:
        The job's own exit code (75: interrupted, or stopped through Ray; submit again to go on), 0
        without waiting, 1 where the cluster answers no more.

    Raises:
        ConfigError: a path that only this folder knows; no job server answers at the address, or
            it does not take the job.
    """
    _check_paths(config)
    logging.getLogger("ray").setLevel(logging.ERROR)  # it tells of uploads and of closed sockets
    client = _connect(address)
    with tempfile.TemporaryDirectory() as folder:
        _pack(config, Path(folder))
        try:
            job = client.submit_job(
                entrypoint="python -m jobs.cli edit config.yaml run.address=auto",
                submission_id=_new_name(),
                runtime_env=_runtime_env(config, folder, packages),
                metadata={"overpaint_output": config.output.path},
            )
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"--address {address}: did not take the job: {error}") from None
    print(f"{job}: submitted to {address}", file=sys.stderr)
    if not wait:
        print(f"follow it: ray job logs --address {address} --follow {job}", file=sys.stderr)
        return 0
    try:
        return _follow(client, job)
    except KeyboardInterrupt:
        print(f"\n{job} goes on. Stop it: ray job stop --address {address} {job}", file=sys.stderr)
        return 0


def _connect(address: str) -> JobSubmissionClient:
    from ray.exceptions import AuthenticationError

    try:
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(address)
    except AuthenticationError:
        raise ConfigError(f"--address {address}: {WANTS_TOKEN}") from None
    except (OSError, RuntimeError, ValueError) as error:  # requests' errors are OSErrors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"--address {address}: no Ray job server answers there ({reason}); name the "
            "dashboard's address, e.g. http://127.0.0.1:8265. It needs ray[default]: install "
            "overpaint[cluster], here and on the cluster's head"
        ) from None


def _new_name() -> str:
    """Of a job: when, and something that two jobs of one second do not share."""
    return f"overpaint-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def _check_paths(config: Config) -> None:
    """Refuses paths below this folder: a job runs in one of its own, which goes when it ends.

    Raises:
        ConfigError: names key and path.
    """
    for key, path in relative_paths(config):
        raise ConfigError(
            f"{key}={path!r}: is relative, and the job runs in a folder of its own on the "
            "cluster; give the url of a bucket, or an absolute path that every node sees"
        )


def _pack(config: Config, folder: Path) -> None:
    """This installation's packages and the resolved configuration, as one folder."""
    for name in PACKAGES:
        shutil.copytree(
            Path(__file__).resolve().parents[2] / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    tree = config.model_dump(mode="json", exclude_unset=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def _runtime_env(config: Config, folder: str, packages: bool) -> dict[str, Any]:
    stop_wait_s = round(config.run.grace_s + STOP_MARGIN_S)
    env: dict[str, Any] = {
        "working_dir": folder,
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(stop_wait_s), "PYTHONUNBUFFERED": "1"},
    }
    if packages:
        env["pip"] = {"packages": _requirements(), "pip_check": False}
    return env


def _requirements() -> list[str]:
    """What this installation requires, extras for object stores included; Ray is there already.

    In the versions that are installed here: they are in the fingerprint, and a job that is
    submitted again must find the same. An extra that is not installed comes as it is required.
    """
    wanted = []
    for line in requires("overpaint") or []:
        name, _, condition = line.partition(";")
        if name.startswith("ray") or ("extra ==" in condition and not _is_store(condition)):
            continue
        wanted.append(_pinned(name.strip()))
    return wanted


def _pinned(requirement: str) -> str:
    project = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    try:
        here = version(project).partition("+")[0]  # a build's own mark is on no index
    except PackageNotFoundError:
        return requirement
    return f"{project}=={here}"


def _is_store(condition: str) -> bool:
    return any(f"'{extra}'" in condition for extra in ("s3", "gcs", "azure"))


def _follow(client: JobSubmissionClient, job: str) -> int:
    """Prints the job's log as it comes; a connection that breaks off is taken up again."""
    import aiohttp  # comes with ray[default]

    log = _Log(client, job)
    while True:
        try:
            asyncio.run(log.print_to_end())
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            print(f"{job}: the log broke off ({error}); asking again", file=sys.stderr)
        info = _info(client, job)
        if info is None:
            print(
                f"{job}: the cluster has not answered for {AWAY_S:.0f} s; the job may go on. "
                f"Follow it: ray job logs --follow {job}; or submit again",
                file=sys.stderr,
            )
            return exit_codes.INCOMPLETE
        if info.status.is_terminal():
            return _exit_code(info, job)
        time.sleep(LOOK_EVERY_S)


def _info(client: JobSubmissionClient, job: str) -> JobDetails | None:
    """What the cluster says of a job; None where it says nothing for ``AWAY_S``."""
    deadline = time.monotonic() + AWAY_S
    while True:
        try:
            return client.get_job_info(job)
        except (OSError, RuntimeError):  # requests' errors are OSErrors
            if time.monotonic() >= deadline:
                return None
            time.sleep(LOOK_EVERY_S)


def _exit_code(info: JobDetails, job: str) -> int:
    """Ray keeps no exit code of a job that was stopped, however it ended."""
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    print(f"{job}: {info.status.value}: {info.message}", file=sys.stderr)
    codes = {"SUCCEEDED": 0, "STOPPED": exit_codes.INTERRUPTED}
    return codes.get(info.status.value, exit_codes.INCOMPLETE)


class _Log:
    """A job's log, which the server sends from its beginning each time it is asked."""

    def __init__(self, client: JobSubmissionClient, job: str) -> None:
        self.client, self.job = client, job
        self.printed = 0  # characters

    async def print_to_end(self) -> None:
        """Prints what was not printed yet, until the server closes the log."""
        seen = 0
        async for text in self.client.tail_job_logs(self.job):
            print(text[max(0, self.printed - seen) :], end="", flush=True)
            seen += len(text)
            self.printed = max(self.printed, seen)
