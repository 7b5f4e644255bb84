"""What Ray is told of the driver's process: where its code is, and how loud its core worker is."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from ray.job_config import JobConfig

ROOT = Path(__file__).resolve().parents[2]
LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
STDERR = 2
# The core worker says that it has read the variable, before the variable has an effect.
OF_LOG_LEVEL = re.compile(rb"\[.*\] logging\.cc:\d+: Set ray log level from .*\n?")


class DriverJob(JobConfig):
    """The job of a driver, where two of Ray's own choices would harm (seen with 2.60).

    Ray puts the driver's current folder first on the path of every worker: a folder with its own
    ``pipeline/``, ``jobs.py`` or ``torch.py`` would break the run. It does so unless the job has a
    working directory, so this job says that it has one. A submitted job really has.

    Ray's core worker writes its errors to the driver's stderr. This job raises its level to
    "fatal", unless the user has chosen one. Call ``started`` after ``ray.init``.
    """

    def __init__(self, *, verbose: bool) -> None:
        """
        Args:
            verbose: let the core worker write its errors to stderr.
        """
        super().__init__(_py_driver_sys_path=code_folders())
        self.verbose = verbose
        self._is_set = False  # the level, by this job
        self._stderr: int | None = None  # the real one, while the core worker starts
        self._said: IO[bytes] | None = None  # on stderr meanwhile

    def _runtime_env_has_working_dir(self) -> bool:
        return True

    def _serialize(self) -> str:
        """Also sets the level of this process's core worker.

        Ray calls this after it has started its own processes, which keep their level and their
        log files, and just before it makes the core worker, which reads the variable.
        """
        if not self.verbose and LOG_LEVEL not in os.environ:
            os.environ[LOG_LEVEL], self._is_set = "fatal", True
            with suppress(OSError):  # there is no stderr
                self._stderr = os.dup(STDERR)
                self._said = tempfile.TemporaryFile()  # noqa: SIM115 - ``started`` closes it
                os.dup2(self._said.fileno(), STDERR)
        return super()._serialize()

    def started(self) -> None:
        """Restores the environment and stderr, and writes there what was said meanwhile."""
        if self._is_set:
            del os.environ[LOG_LEVEL]
        if self._stderr is None or self._said is None:
            return
        os.dup2(self._stderr, STDERR)
        os.close(self._stderr)
        self._said.seek(0)
        with suppress(OSError):  # the disk below a log is full
            os.write(STDERR, OF_LOG_LEVEL.sub(b"", self._said.read()))
        self._said.close()
        self._stderr = self._said = None


def code_folders() -> list[str]:
    """The folder of this code, where workers may not find it by themselves: a checkout.

    An installed package is on the workers' path. Its folder must not come first there, since it
    may hold backports with names of the standard library.
    """
    return [str(ROOT)] if (ROOT / "pyproject.toml").is_file() else []
