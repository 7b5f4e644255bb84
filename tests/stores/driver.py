"""One driver with the local loop; tests run several of them at once on one output.

    python -m tests.stores.driver INPUT OUTPUT STORAGE_OPTIONS_AS_JSON

It prints "ready" when everything is imported and planned, and starts when it reads a line.
"""

from __future__ import annotations

import json
import sys

from tests.fake_job import fake_plan, run_fake

if __name__ == "__main__":
    shards, output, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    sections = {name: {"storage_options": options} for name in ("input", "output")}
    plan = fake_plan(shards, output, 1, **sections)
    print("ready", flush=True)
    sys.stdin.readline()
    assert run_fake(plan).work == []
