"""The local loop as a process: ``python -m tests.jobs.plain CONFIG key=value ...``."""

from __future__ import annotations

import sys

from pipeline.config.load import load_config
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import make_plan
from pipeline.storage.layout import sweep

if __name__ == "__main__":
    config = load_config(sys.argv[1], sys.argv[2:])
    plan = run_loop(make_plan(config, "cpu"), beside=False)  # its storage calls have a fixed order
    sweep(plan.output)
    sys.exit(1 if plan.work else 0)
