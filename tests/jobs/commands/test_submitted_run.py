"""A run as a job on a real Ray cluster: submitted, killed, submitted again, and its metrics."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.jobs.conftest import ROOT, Job
from tests.jobs.edit.test_layouts import staged
from tests.jobs.test_current_folder import console_script, in_folder, plant

pytestmark = pytest.mark.slow
DASHBOARD = "infra/monitoring/grafana-dashboard.json"
RARE = {
    "ray_overpaint_gpu_memory_peak_bytes",
    "ray_overpaint_micro_batch_halvings_total",
    "ray_overpaint_parts_lost_total",
    "ray_overpaint_storage_retries_total",
}
Digests = Callable[[Path], dict[str, str]]


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


@dataclass
class Cluster:
    """A Ray cluster with one node on the loopback interface, and the metrics that it exports."""

    dashboard: str
    exporter: str
    samples: dict[str, float] = field(default_factory=dict)  # by name, the largest value seen
    ended: threading.Event = field(default_factory=threading.Event)

    def scrape(self) -> None:
        """Reads the exporter twice a second until the cluster ends."""
        while not self.ended.wait(0.5):
            with suppress(OSError), urllib.request.urlopen(self.exporter, timeout=5) as answer:
                for family in text_string_to_metric_families(answer.read().decode()):
                    for item in family.samples:
                        self.samples[item.name] = max(
                            item.value, self.samples.get(item.name, item.value)
                        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:  # as for a shared cluster
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        yield from started_cluster()


def started_cluster() -> Iterator[Cluster]:
    port, dashboard_port, metrics_port = free_ports(3)
    found = Cluster(f"http://127.0.0.1:{dashboard_port}", f"http://127.0.0.1:{metrics_port}")
    # A short path, since the paths of Ray's sockets below it are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--port={port}", f"--dashboard-port={dashboard_port}", f"--temp-dir={folder}"]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=2"]
        command += [f"--metrics-export-port={metrics_port}"]
        environment = os.environ | {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # a job runs `python`
        }
        with (Path(folder) / "head.log").open("w+") as log:
            head = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                wait_for(f"{found.dashboard}/api/jobs/", head, Path(log.name))
                threading.Thread(target=found.scrape, daemon=True).start()
                yield found
            finally:
                found.ended.set()
                head.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    head.wait(timeout=10)
                with suppress(ProcessLookupError):
                    os.killpg(head.pid, signal.SIGKILL)
                head.wait(timeout=10)


def ask(url: str) -> bytes:
    """The body of a response of the dashboard, requested with the cluster's token."""
    token = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=token), timeout=10) as answer:
        return bytes(answer.read())


def wait_for(url: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        with suppress(OSError):
            ask(url)
            return
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.3)


def submit(job: Job, output: Path, dashboard: str, *more: str) -> list[str]:
    _, config, *overrides = job.arguments(output, "run.layout=fused", "run.grace_s=30")
    command = [sys.executable, "-m", "jobs.cli", "submit", config, *overrides]
    return [*command, "--address", dashboard, *more]  # overrides before and after the option


def test_a_killed_job_submitted_again_writes_the_same_bytes(
    job: Job, plain: Path, digests: Digests, tmp_path: Path, cluster: Cluster
) -> None:
    """The driver of a submitted job is killed; a second submission completes the run.

    It is submitted from a folder with modules of the same names as the job's own.
    """
    output = tmp_path / "out"
    first = subprocess.Popen(
        submit(job, output, cluster.dashboard),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 180
    driver = None  # found before there is a part: the whole run takes few seconds from then on
    while driver is None or not staged(output):
        assert first.poll() is None, first.stdout.read().decode() if first.stdout else ""
        assert time.monotonic() < deadline, "no part was staged in three minutes"
        time.sleep(0.05)
        driver = driver or running_driver()
    driver.kill()  # as a lost head would
    text = first.communicate(timeout=120)[0].decode()
    assert first.returncode not in (0, None), text
    assert digests(output) != digests(plain), "killed too late to show anything"

    script = console_script(tmp_path / "bin")
    again = in_folder(
        [sys.executable, str(script), *submit(job, output, cluster.dashboard)[3:]],
        plant(tmp_path / "here"),
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 shards" in again.stdout, "the job's own summary is followed"
    assert digests(output) == digests(plain)


def running_driver() -> psutil.Process | None:
    """The driver of a submitted job, if there is one yet; no other driver has such a command."""
    command = {"jobs.cli", "edit", "config.yaml", "run.address=auto"}
    for process in psutil.process_iter(["cmdline"]):
        if command <= set(process.info["cmdline"] or []):
            return process
    return None


def test_the_exporter_has_every_metric_of_the_dashboard(cluster: Cluster) -> None:
    """Metrics of rare events are not exported here; their names are looked up in the source."""
    assert cluster.samples["ray_overpaint_edits_total"] > 0, "the runs above were not scraped"
    assert cluster.samples["ray_overpaint_storage_bytes_total"] > 0
    assert cluster.samples["ray_overpaint_network_evaluations_total"] > 0
    asked = set(re.findall(r"\bray_\w+", (ROOT / DASHBOARD).read_text()))
    rare = {name for name in asked if name in RARE}
    made = (ROOT / "jobs/edit/metrics.py").read_text()
    assert all(f'"{name[4:].removesuffix("_total")}"' in made for name in rare)
    assert len(asked - rare) >= 12
    assert asked - rare <= set(cluster.samples)


def test_the_exit_code_is_the_jobs_own(job: Job, tmp_path: Path, cluster: Cluster) -> None:
    """A job that cannot start on the cluster returns its code, and its message is printed."""
    done = subprocess.run(
        submit(job, tmp_path / "out", cluster.dashboard, f"input.shards={tmp_path}/nothing/*.tar"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "nothing matches" in done.stdout


def test_a_missing_cluster_is_a_one_line_error(job: Job, tmp_path: Path) -> None:
    """Without a job server at the address: exit code 2, and what to do."""
    (port,) = free_ports(1)
    done = subprocess.run(
        submit(job, tmp_path / "out", f"http://127.0.0.1:{port}"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 2
    assert "no Ray job server answers there" in done.stderr
    assert "Traceback" not in done.stderr
