"""Starts Ray beside the plan of a run: both take seconds, and neither needs the other."""

from __future__ import annotations

import threading
from types import TracebackType

import ray

from jobs.edit.cluster import connect, disconnect
from jobs.ray_environment import cluster_address
from pipeline.config.config import Config


class RayStart:
    """A context manager of the driver, around planning and running.

    A local Ray starts in a thread, so that the main thread plans meanwhile, meets the plan's errors
    and gets the signals. A cluster is connected to where it is needed. Whatever ends the block also
    ends Ray, once it has started.
    """

    def __init__(self, config: Config, verbose: bool, *, keep: bool = False) -> None:
        """
        Args:
            config, verbose: see ``connect``.
            keep: stay connected at the end of a block without an error.
        """
        self.config, self.verbose, self.keep = config, verbose, keep
        self._thread: threading.Thread | None = None
        self._started, self._over = threading.Event(), threading.Event()
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Begins to start a local Ray, and returns. Does nothing if Ray has been started."""
        if cluster_address(self.config) or ray.is_initialized() or self._thread is not None:
            return
        self._thread = threading.Thread(target=self._start, name="overpaint-ray", daemon=True)
        self._thread.start()

    def connected(self) -> None:
        """Returns once Ray runs and this process is connected to it.

        Raises:
            ConfigError: see ``connect``.
            Exception: what Ray's start raised.
        """
        if self._thread is not None:
            self._started.wait()
        if self._error is not None:
            raise self._error
        if not ray.is_initialized():
            connect(self.config, self.verbose)

    def connected_for_auto(self) -> None:
        """As ``connected``, where ``auto`` as device or dtype depends on the GPUs of a cluster."""
        model = self.config.model
        if cluster_address(self.config) and "auto" in (model.device, model.dtype):
            self.connected()

    def _start(self) -> None:
        try:
            connect(self.config, self.verbose)
        except BaseException as error:  # noqa: BLE001 - ``connected`` raises it in the main thread
            self._error = error
        self._started.set()
        # Ray's processes ask Linux to kill them when the thread that started them ends.
        self._over.wait()

    def __enter__(self) -> RayStart:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._started.wait()  # Ray cannot be shut down before it has started
        if self.keep and error is None:
            return
        if ray.is_initialized():
            disconnect()
        self._over.set()
