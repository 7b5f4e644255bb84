"""The exit codes of every command, in one table."""

from __future__ import annotations

OK = 0  # the command did what it was asked to do
INCOMPLETE = 1  # work is left, or a problem was found; the output says which
BAD_CONFIG = 2  # a wrong config, path or argument; nothing was started
TOO_MANY_FAILED = 3  # complete, but more edits failed than run.max_failed_share allows
INTERRUPTED = 75  # run the same command again to resume (EX_TEMPFAIL of sysexits.h)
