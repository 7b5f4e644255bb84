"""Credentials in a url are refused and never shown; options that hold some are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.storage.credentials import check_no_credentials, redacted, secret_options
from pipeline.storage.shards import expand_shards
from pipeline.storage.store import Store

WITH = {
    "s3://key:hunter2@bucket/in/*.tar": "s3://key:...@bucket/in/*.tar",
    "s3://key:hun/ter2+@bucket/x": "s3://key:...@bucket/x",
    "sftp://me:hunter2@host:22/x": "sftp://me:...@host:22/x",
    "https://hunter2@host/x.tar": "https://...@host/x.tar",
    "https://host/x.tar?X-Amz-Signature=hunter2&n=1": "https://host/x.tar?X-Amz-Signature=...&n=1",
    "az://box/x?sv=1&sig=hunter2": "az://box/x?sv=1&sig=...",
}
WITHOUT = (
    *("abfs://box@account.dfs.core.windows.net/x", "s3://b/in/?.tar", "http://host:8265/a@b"),
    *("hdfs://host:8020/x@y", "in/a@b:c.tar", "s3://b/{a,b}/[0-9].tar", "mailto a:b@c"),
)


@pytest.mark.parametrize(("url", "shown"), WITH.items())
def test_passwords_and_tokens_in_a_url_are_hidden_and_refused(url: str, shown: str) -> None:
    """The error does not repeat them."""
    assert redacted(f"cannot reach '{url}': refused") == f"cannot reach '{shown}': refused"
    with pytest.raises(ValueError, match="credentials in a url are refused") as caught:
        check_no_credentials(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", WITHOUT)
def test_other_urls_stay(url: str) -> None:
    """A container of Azure, a wildcard, a port."""
    assert redacted(url) == url
    check_no_credentials(url)


def test_inputs_and_outputs_with_a_password_are_refused() -> None:
    """Before anything is listed, so no such url reaches a log, ``_run/`` or the report."""
    with pytest.raises(ValueError, match="credentials in a url"):
        expand_shards("s3://key:hunter2@bucket/in/*.tar")
    with pytest.raises(ValueError, match="credentials in a url"):
        Store("s3://key:hunter2@bucket/out")


@pytest.mark.parametrize(
    "command",
    [
        ["status", "s3://key:hunter2@bucket/out"],
        ["verify", "https://hunter2@host/out"],
        ["report", "s3://key:hunter2@bucket/out"],
        ["refilter", "s3://key:hunter2@bucket/out", "--clear"],
        ["mix", "s3://key:hunter2@bucket/mixed", "--edited", "s3://key:hunter2@bucket/out"],
        ["status", "s3://bucket/out", "--storage-option", "s3://key:hunter2@bucket"],
    ],
    ids=lambda command: " ".join(command[:1]),
)
def test_no_command_prints_the_password(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It says that the url is refused, with "..." in place of the password."""
    assert main(command) == 2
    printed = capsys.readouterr()
    assert "..." in printed.err
    assert "hunter2" not in printed.out + printed.err


def test_an_argument_that_a_command_does_not_take_is_shown_without_its_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Such as a setting of edit, given to verify."""
    with pytest.raises(SystemExit):
        main(["verify", "out", "input.shards=s3://key:hunter2@bucket/in"])
    printed = capsys.readouterr().err
    assert "input.shards=s3://key:...@bucket/in" in printed
    assert "hunter2" not in printed


def test_a_password_in_another_setting_is_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever error quotes it: everything that is shown passes one function."""
    given = [f"input.shards={tmp_path}/x.tar", f"output.path={tmp_path}/out"]
    assert main(["edit", "demo", *given, "run.seed=http://me:hunter2@host"]) == 2
    printed = capsys.readouterr().err
    assert "run.seed=" in printed
    assert "hunter2" not in printed


def test_options_that_hold_credentials_are_found() -> None:
    """By their names, also below nested mappings; what only says how to find some is none."""
    options = {
        "key": "A", "secret": "B", "anon": True, "profile": "p", "account_name": "n",
        "client_kwargs": {"aws_secret_access_key": "x", "region_name": "e"},
        "endpoint_url": "http://me:hunter2@host", "sas_token": "s", "connection_string": "c",
        "config_kwargs": {"signature_version": "s3v4"}, "account_key": "k", "token": {"a": "b"},
        "password": "", "headers": [],
    }  # fmt: skip
    assert set(secret_options(options)) == {
        *("key", "secret", "client_kwargs.aws_secret_access_key", "endpoint_url", "sas_token"),
        *("connection_string", "account_key"),
    }
    assert list(secret_options({"token": "google_default"})) == []
    assert list(secret_options({"token": "ya29.abc"})) == ["token"]
