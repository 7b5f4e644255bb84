"""A real Slurm on this machine: a controller and two nodes, on the loopback interface."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NODES = ("n1", "n2")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
START_S = 60.0
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
ReturnToService=2
KillWait=10
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/%n
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000\n"


def missing() -> str | None:
    """Why no Slurm can run here; None if it can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"no {', '.join(absent)} (Debian: slurmctld, slurmd, slurm-client, munge)"
    return None if os.geteuid() == 0 else "a Slurm of one's own needs root"


class Slurm:
    """The daemons, and the commands that speak to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Starts the daemons and waits until both nodes are idle."""
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(1 + len(NODES))
        text = CONFIG.format(host=host, port=ports[0], folder=self.folder)
        for name, port in zip(NODES, ports[1:], strict=True):
            (self.folder / name).mkdir()
            text += NODE.format(name=name, host=host, port=port)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {"socket": "munge", "pid-file": "munge.pid", "log-file": "munge.log"}
        files |= {"seed-file": "munge.seed", "key-file": "munge.key"}
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self._start("munged", "munged", "--foreground", "--force", *options)
        self._start("slurmctld", "slurmctld", "-D")
        for name in NODES:
            self._start(name, "slurmd", "-D", "-N", name)
        deadline = time.monotonic() + START_S
        while self.ask("sinfo", "--noheader", "--format=%t %D").strip() != f"idle {len(NODES)}":
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as log:
            self.daemons[name] = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def ask(self, *command: str, **more: str) -> str:
        """The output of a command of Slurm; empty if it fails."""
        done = subprocess.run(command, env=self.env | more, capture_output=True, text=True)
        return done.stdout

    def logs(self) -> str:
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        """Ends the jobs, then the daemons by their process ids."""
        self.ask("scancel", "--state=RUNNING")
        deadline = time.monotonic() + START_S
        while self.ask("squeue", "--noheader", "--states=R,CG") and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@contextmanager
def running() -> Iterator[Slurm]:
    """A Slurm that is stopped at the end; its folder has a short name for munge's socket."""
    with tempfile.TemporaryDirectory(prefix="op-slurm-") as folder:
        Path(folder).chmod(0o755)
        slurm = Slurm(Path(folder))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
