"""Commands that a signal, a store or a node may end, and that go on when they run again."""

from __future__ import annotations

import argparse
import functools
import sys
import traceback
from collections.abc import Callable

from jobs import exit_codes
from jobs.logs import tell
from jobs.terminal import show

Command = Callable[[argparse.Namespace], int]


def stoppable(command: Command) -> Command:
    """A command that goes on when it runs again: a signal interrupts it, with its exit code.

    The command imports what is slow to import, so that a signal then is an interruption too.
    """

    @functools.wraps(command)
    def ended(options: argparse.Namespace) -> int:
        from jobs.supervise.interrupts import Interrupted, interruptible

        try:
            with interruptible():
                return command(options)
        except Interrupted:
            return exit_codes.INTERRUPTED

    return ended


def resumable(options: argparse.Namespace, run: Callable[[], int]) -> int:
    """Returns the run's exit code; if the store or a node ends it, prints how to resume.

    Args:
        options: of the command.
        run: imports what is slow to import, so that a signal then is an interruption too.
    """

    @stoppable
    def resumed(options: argparse.Namespace) -> int:
        from jobs.supervise.starts import CannotGoOnError

        try:
            return run()
        except (OSError, CannotGoOnError) as error:
            if options.verbose:
                show(traceback.format_exc(), to=sys.stderr, lines=True)
            tell(f"overpaint: {error}; run the same command to resume", level="error")
            return exit_codes.INCOMPLETE

    return resumed(options)
