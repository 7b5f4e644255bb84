"""Kills a process at every storage call of a mix, resumes the mix, and prints the differences.

python -m tests.mix.crash_runner FOLDER FORMAT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.mix.mix import run_mix
from pipeline.mix.plan import make_mix_plan
from tests.mix.boxed import make_boxed, mix_of
from tests.mix.test_mix import make_outputs, settings
from tests.stores.forks import must
from tests.stores.killed_at_each_call import sweep


def main(folder: Path, form: str) -> None:
    def mix(output: Path) -> None:
        found = settings(folder, output.name, workers=1)
        if form != "webdataset":
            found = mix_of(folder, output, format=form, workers=1)
        run_mix(make_mix_plan(found))

    def make() -> None:
        if form == "webdataset":
            make_outputs(folder, shards=2, images=3)
        else:
            make_boxed(folder, shards=1, images=1)

    must(make)
    print(json.dumps(sweep(folder, mix)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
