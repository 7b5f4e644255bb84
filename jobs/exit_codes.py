"""The exit codes of every command, in one table."""

from __future__ import annotations

OK = 0  # what was asked for was done
INCOMPLETE = 1  # something is left to do, or a problem was found; the output says which
BAD_CONFIG = 2  # a wrong config, path or argument: nothing was started
# sysexits.h, EX_TEMPFAIL: "try again later"; running the same command again resumes.
INTERRUPTED = 75
