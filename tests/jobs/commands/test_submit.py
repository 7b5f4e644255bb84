"""``overpaint submit``: what it refuses, what it uploads, and how it handles cluster failures."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import aiohttp
import pytest
import ray
import requests
from ray.job_submission import JobStatus

from jobs import exit_codes
from jobs.commands import follow_job
from jobs.commands import submit as submitting
from pipeline.config.load import ConfigError, parse_config


class Server:
    """A job server that answers each request with the next answer of a list."""

    def __init__(self, logs: list[Any], infos: list[Any]) -> None:
        self.logs, self.infos = logs, infos

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        log = self.logs.pop(0) if self.logs else ""
        if isinstance(log, Exception):
            raise log
        yield log

    def get_job_info(self, job: str) -> Any:
        info = self.infos.pop(0) if len(self.infos) > 1 else self.infos[0]
        if isinstance(info, Exception):
            raise info
        return info


def state(status: JobStatus, code: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(status=status, driver_exit_code=code, message="")


RUNNING = state(JobStatus.RUNNING)


def follow(server: Server) -> int:
    return follow_job.follow(cast(Any, server), "job")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_job, "POLL_S", 0.001)
    monkeypatch.setattr(follow_job, "MAX_OUTAGE_S", 0.05)


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ServerDisconnectedError(),
        aiohttp.WSServerHandshakeError(mock.Mock(), (), status=503),
        ConnectionResetError(),
        RuntimeError("closed unexpectedly"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_broken_log_connection_is_reopened(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever error the client raises; no line is printed twice."""
    server = Server(["one\n", error, "one\ntwo\n"], [RUNNING, RUNNING, state(JobStatus.FAILED, 75)])
    assert follow(server) == 75
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_cluster_that_does_not_answer_for_a_while_is_polled_again() -> None:
    """In the end the job's own exit code is returned."""
    away = requests.ConnectionError("refused")
    assert follow(Server([], [away, away, RUNNING, away, state(JobStatus.SUCCEEDED, 0)])) == 0


def test_following_ends_if_the_cluster_stays_unreachable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 1 and a line that says how to continue, no traceback."""
    assert follow(Server([], [requests.ConnectionError("refused")])) == 1
    assert "ray job logs --follow job; or submit again" in capsys.readouterr().err


def test_a_stopped_job_returns_75() -> None:
    """Ray keeps no exit code of it; submitting again resumes the run."""
    assert follow(Server([], [state(JobStatus.STOPPED)])) == exit_codes.INTERRUPTED
    assert follow(Server([], [state(JobStatus.FAILED)])) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ray.exceptions.AuthenticationError("no token"), "RAY_AUTH_MODE=token"),
        (requests.HTTPError("502 Server Error"), "no Ray job server answers there (502"),
    ],
    ids=["token", "proxy"],
)
def test_a_server_that_refuses_access_is_a_one_line_error(error: Exception, words: str) -> None:
    """These errors of Ray's client are no subclass of ConnectionError."""
    with (
        mock.patch("ray.job_submission.JobSubmissionClient", side_effect=error),
        pytest.raises(ConfigError, match=re.escape(words)),
    ):
        submitting._connect("http://127.0.0.1:8265")


def test_jobs_submitted_in_the_same_second_have_different_names() -> None:
    """Ray refuses a second job with the same name."""
    with mock.patch("time.strftime", return_value="20260101-000000"):
        assert submitting._new_name() != submitting._new_name()


@pytest.mark.parametrize(
    ("key", "override"),
    [
        ("output.path", {"output": {"path": "out"}}),
        ("output.path", {"output": {"path": "file://out"}}),
        ("input.shards", {"input": {"shards": ["/in/0.tar", "in/*.tar"]}}),
        ("model.path", {"model": {"path": "model"}}),
        ("scores.lpips.path", {"scores": {"lpips": {"path": "model", "net": "vgg"}}}),
    ],
)
def test_a_relative_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, override: dict[str, Any]
) -> None:
    """A job runs in its own folder, which is deleted with everything written there."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    tree = {"input": {"shards": "s3://bucket/in"}, "output": {"path": "/shared/out"}}
    submitting._check_paths(parse_config(tree | {"model": {"path": "owner/name"}}))
    with pytest.raises(ConfigError, match=rf"{key}='.*is relative"):
        submitting.submit(
            parse_config(tree | override), "http://127.0.0.1:1", packages=False, wait=False
        )


@pytest.mark.parametrize("section", ["input", "output"])
def test_credentials_in_the_options_are_refused(section: str) -> None:
    """They would lie in a file that everyone on the nodes can read; the error names the keys."""
    tree: dict[str, Any] = {"input": {"shards": "s3://bucket/in"}, "output": {"path": "s3://b/out"}}
    harmless = {"endpoint_url": "http://minio:9000", "anon": False, "client_kwargs": {"x": 1}}
    tree[section]["storage_options"] = harmless
    submitting.check_secrets(parse_config(tree))
    tree[section]["storage_options"] = harmless | {
        "secret": "hunter2",
        "client_kwargs": {"aws_secret_access_key": "hunter2"},
    }
    with pytest.raises(ConfigError) as caught:
        submitting.submit(parse_config(tree), "http://127.0.0.1:1", packages=False, wait=False)
    message = str(caught.value)
    assert message.startswith(
        f"{section}.storage_options: client_kwargs.aws_secret_access_key, secret: hold credentials"
    )
    assert "hunter2" not in message


def test_a_password_in_a_url_is_refused() -> None:
    """Ray shows a job's output on its dashboard, and the config is a file on every node."""
    tree = {"input": {"shards": ["s3://key:hunter2@bucket/in"]}, "output": {"path": "s3://b/out"}}
    with pytest.raises(ConfigError, match="credentials in a url") as caught:
        submitting.submit(parse_config(tree), "http://127.0.0.1:1", packages=False, wait=False)
    assert "hunter2" not in str(caught.value)


def test_packages_are_pinned_to_this_installations_versions() -> None:
    """Versions are in the fingerprint: a job that is submitted again needs the same ones."""
    wanted = submitting._requirements()
    assert f"pillow=={version('pillow')}" in wanted
    assert f"torch=={version('torch').partition('+')[0]}" in wanted
    assert f"s3fs=={version('s3fs')}" in wanted
    assert not [name for name in wanted if name.startswith(("ray", "pytest", "matplotlib"))]


def test_a_cluster_that_has_no_agent_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that has just started refuses jobs for some seconds; another refusal is final."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    busy = RuntimeError("Request failed with status code 500: No available agent to submit job")
    client = mock.Mock()
    client.submit_job.side_effect = [busy, busy, "job"]
    assert submitting._submitted(client, entrypoint="x") == "job"
    client.submit_job.side_effect = RuntimeError("no such environment")
    with pytest.raises(RuntimeError, match="no such environment"):
        submitting._submitted(client, entrypoint="x")
    assert client.submit_job.call_count == 4
