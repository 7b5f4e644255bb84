"""Raises errors in the main thread, which waits for Ray and cannot look around."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class MainThread:
    """A context manager of the main thread: while it is open, others raise errors in it.

    Python runs the handler of a signal in the main thread, wherever that waits.
    """

    def __init__(self) -> None:
        self._error: Exception | None = None

    def interrupt(self, error: Exception) -> None:
        """Raises an error in the main thread. Call this from another one."""
        main = threading.main_thread().ident
        if main is not None:
            self._error = error
            signal.pthread_kill(main, signal.SIGUSR2)

    def forget(self, error: Exception) -> None:
        """Drops this error, if it was not raised yet."""
        if self._error is error:
            self._error = None

    def __enter__(self) -> MainThread:
        self._before = signal.signal(signal.SIGUSR2, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._error = None
        signal.signal(signal.SIGUSR2, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
