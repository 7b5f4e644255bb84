"""``overpaint submit``: runs ``edit`` as a job on a Ray cluster and follows its log.

The code of this installation and the resolved configuration are uploaded as the job's working
directory, so that driver and workers run what was checked here. The libraries are the cluster's
own, or Ray installs them with ``--packages``.
"""

from __future__ import annotations

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

from jobs.commands.follow_job import follow
from jobs.edit.paths import relative_paths
from jobs.ray_environment import WANTS_TOKEN
from jobs.terminal import show
from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.config.yaml_text import yaml_text
from pipeline.storage.credentials import check_no_credentials, secret_options

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PACKAGES = ("pipeline", "jobs")
# By default Ray kills a stopped job's driver after 3 s. The driver needs its grace period for parts
# in flight, and this much more.
STOP_MARGIN_S = 30
NO_AGENT, AGENT_WAIT_S = "No available agent", 60.0  # of Ray's job server


def submit(config: Config, address: str, *, packages: bool, wait: bool) -> int:
    """Submits a run and follows its log.

    Submitting again is always safe, even while the first job runs: the store shows what is done,
    and two drivers on one output write the right bytes (if the store has conditional puts).

    Args:
        config: the run; it is checked here, so that mistakes show before anything is uploaded.
        address: of the cluster's dashboard, e.g. http://127.0.0.1:8265.
        packages: let Ray install the libraries on each node, for a cluster without them.
        wait: follow the log to the end.

    Returns:
        The job's own exit code (75: interrupted, or stopped through Ray; submit again to resume), 0
        without waiting, 1 if the cluster stops answering.

    Raises:
        ConfigError: a path is relative, storage options hold credentials, no job server answers at
            the address, or it refuses the job.
    """
    _check_paths(config)
    check_secrets(config)
    logging.getLogger("ray").setLevel(logging.ERROR)  # Ray logs uploads and closed sockets
    client = _connect(address)
    with tempfile.TemporaryDirectory() as folder:
        _pack(config, Path(folder))
        try:
            job = _submitted(
                client,
                entrypoint="python -m jobs.cli edit config.yaml run.address=auto",
                submission_id=_new_name(),
                runtime_env=_runtime_env(config, folder, packages),
                metadata={"overpaint_output": config.output.path},
            )
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"--address {address}: refused the job: {error}") from None
    show(f"{job}: submitted to {address}", to=sys.stderr)
    if not wait:
        show(f"to follow it: ray job logs --address {address} --follow {job}", to=sys.stderr)
        return 0
    try:
        return follow(client, job)
    except KeyboardInterrupt:
        show(
            f"\n{job} continues. To stop it: ray job stop --address {address} {job}",
            to=sys.stderr,
            lines=True,
        )
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
            f"--address {address}: no Ray job server answers there ({reason}); give the address "
            "of the dashboard, e.g. http://127.0.0.1:8265. It needs ray[default]: install "
            "overpaint[cluster] here and on the cluster's head"
        ) from None


def _new_name() -> str:
    """The name of a job: the time, and random digits so that names are unique."""
    return f"overpaint-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def _submitted(client: JobSubmissionClient, **job: Any) -> str:
    """Submits a job; a cluster that has just started may not have an agent for it yet."""
    deadline = time.monotonic() + AGENT_WAIT_S
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError as error:
            if NO_AGENT not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(1.0)


def _check_paths(config: Config) -> None:
    """Refuses relative paths: a job runs in its own folder, which is deleted when it ends.

    Raises:
        ConfigError: names the key and the path.
    """
    for key, path in relative_paths(config):
        raise ConfigError(
            f"{key}={path!r}: is relative, but the job runs in its own folder on the cluster; "
            "give the url of a bucket, or an absolute path that every node sees"
        )


def check_secrets(config: Config) -> None:
    """Refuses credentials in ``storage_options`` and in the urls of input and output.

    The configuration travels as a file. Ray uploads it to the head and unpacks it on every node,
    with its own modes and for as long as it likes, so no mode that is set here would protect it.

    Raises:
        ConfigError: names the keys, not their values.
    """
    shards = config.input.shards
    for url in [*([shards] if isinstance(shards, str) else shards), config.output.path]:
        try:
            check_no_credentials(url)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    for section in ("input", "output"):
        keys = list(secret_options(getattr(config, section).storage_options))
        if keys:
            raise ConfigError(
                f"{section}.storage_options: {', '.join(keys)}: hold credentials, which would lie "
                "in a file that everyone on the nodes can read; leave them out, and give the nodes "
                "a role, or environment variables of their own"
            )


def _pack(config: Config, folder: Path) -> None:
    """Copies this installation's packages and the resolved configuration into a folder."""
    for name in PACKAGES:
        shutil.copytree(
            Path(__file__).resolve().parents[2] / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    tree = config.model_dump(mode="json", exclude_unset=True)
    (folder / "config.yaml").write_text(yaml_text(tree))


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
    """This installation's requirements, with the extras for object stores but without Ray.

    They are pinned to the versions installed here, since versions are part of the fingerprint and
    must be the same when a job is submitted again. A package that is not installed is not pinned.
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
        here = version(project).partition("+")[0]  # package indexes have no local versions (+cpu)
    except PackageNotFoundError:
        return requirement
    return f"{project}=={here}"


def _is_store(condition: str) -> bool:
    return any(f"'{extra}'" in condition for extra in ("s3", "gcs", "azure"))
