"""Damages the files in which an output describes itself, and runs commands that read them."""

from __future__ import annotations

import contextlib
import io
import json
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jobs.cli import main
from jobs.terminal import safe
from pipeline.config.load import ConfigError
from pipeline.plan.inputs import changed_inputs
from pipeline.plan.plan import Plan
from pipeline.plan.run_folder import write_run_folder
from pipeline.plan.summary import summarize
from pipeline.records.run_files import RunFileError
from pipeline.republish.retry_failed import publish_staged
from pipeline.sizing.costs import known_costs
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard

RUN_FILES = tuple(
    f"_run/{name}"
    for name in (
        *("run.json", "inputs.json", "filters.json", "config.yaml", "summary.json"),
        *("environment.json", "costs.json", "cut_shards.json", "model_files.json"),
    )
)
DEEP = b"[" * 5000 + b"]" * 5000
BOMB = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c, *%c]\n" % (name, name, *[name - 1] * 4) for name in range(98, 120)
)
ODD_BYTES = (
    *(b"", b"null", b"[]", b"{}", b"3", b'"x"', b"\xff\xfe\x00", b"{", b"NaN", DEEP, BOMB),
    *(b"input: !!int ''", b"? [a]\n: b", b"!!timestamp x", b"a: !!python/name:os.system", b"\0"),
    *(b'{"version": 2}', b'[{"version": 2}]', b"version: 2", b"9" * 5000),
)
ODD_VALUES: tuple[Any, ...] = (
    *(
        None,
        [],
        {},
        "",
        "x",
        -1,
        0,
        True,
        2**70,
        1e300,
        float("nan"),
        float("inf"),
        [None],
        {"": 0},
    ),
    *("\x1b]0;title\x07[/x]\n", "\ud800", ["a", {"b": []}], "../../x", "s3://k:hunter2@b/x.tar"),
)


@dataclass
class Answer:
    """What a command printed, and how it ended."""

    code: int | None
    text: str
    trace: str = ""  # of an uncaught error


@dataclass
class Damaged:
    """An output with two published shards, and the files of it that are damaged."""

    folder: Path
    whole: dict[str, bytes] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def plan(self) -> Plan:
        """Plans the run anew, as ``overpaint edit`` does."""
        filters = ["edit_rms >= 0.01", "mask_area <= 0.9"]
        return fake_plan(f"{self.folder}/in/*.tar", str(self.output), filters=filters)

    def damage(self, name: str, data: bytes) -> None:
        (self.output / name).write_bytes(data)

    def restore(self) -> None:
        for name, data in self.whole.items():
            (self.output / name).write_bytes(data)


def make_damaged(folder: Path) -> Damaged:
    """An output of two shards, with failed and rejected edits, and a mix of it."""
    for number in range(2):
        samples = [raw_sample("a", ["1", "2", "a dog"]), raw_sample("b", ["bad"], seed=1)]
        write_shard(folder / f"in/{number}.tar", samples)
    made = Damaged(folder)
    plan = made.plan()
    write_run_folder(plan)
    run_fake(plan, failing=["bad"])
    names = [*RUN_FILES, "0_stats.json"]
    made.whole = {
        name: (made.output / name).read_bytes() for name in names if (made.output / name).is_file()
    }
    made.whole["_run/costs.json"] = b'{"source": "calibration", "seconds": {"mask": 1.0}}'
    made.whole["_run/cut_shards.json"] = b'{"9": 3}'
    made.restore()
    return made


def commands(made: Damaged) -> dict[str, Callable[[], int]]:
    """Everything that reads an output, by name. ``edit`` is the driver's own way without Ray."""
    output = str(made.output)
    mixed = [f"{made.folder}/mixed", "--edited", output, "--dry-run"]
    return {
        "status": lambda: main(["status", output]),
        "status --json": lambda: main(["status", output, "--json"]),
        "verify": lambda: main(["verify", output]),
        "report": lambda: main(["report", output]),
        "refilter": lambda: main(["refilter", output, "--set", "mask_area <= 0.5", "--dry-run"]),
        "mix": lambda: main(["mix", *mixed]),
        "edit": lambda: resume(made),
    }


def resume(made: Damaged) -> int:
    """What ``overpaint edit`` reads before and after its waves."""
    try:
        plan = made.plan()
        changed_inputs(plan)
        known_costs(plan)
        write_run_folder(plan)
        publish_staged(plan)
        summarize(plan, 1.0, 0)
    except (ConfigError, RunFileError) as error:
        print(f"overpaint: {safe(str(error))}")
        return 2
    return 0


def answer(command: Callable[[], int]) -> Answer:
    """Runs a command in this process."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = command()
        except SystemExit as error:
            return Answer(None, printed.getvalue(), f"SystemExit: {error.code}")
        except Exception:  # noqa: BLE001 - this is what the tests look for
            return Answer(None, printed.getvalue(), traceback.format_exc())
    return Answer(code, printed.getvalue())


def mutated(data: bytes, name: str, drawn: random.Random) -> bytes:
    """The file with one or two changes, of its bytes or of the values in it."""
    if drawn.random() < 0.3:
        return _other_bytes(data, drawn)
    is_yaml = name.endswith(".yaml")
    tree = yaml.safe_load(data) if is_yaml else json.loads(data)
    for _ in range(drawn.randint(1, 2)):
        tree = _other_value(tree, drawn)
    text = yaml.safe_dump(tree, allow_unicode=True) if is_yaml else json.dumps(tree)
    return text.encode("utf-8", "surrogatepass")


def _other_bytes(data: bytes, drawn: random.Random) -> bytes:
    if drawn.random() < 0.5:
        return drawn.choice(ODD_BYTES)
    place = drawn.randrange(len(data))
    return drawn.choice(
        [
            data[:place],
            data[:place] + drawn.randbytes(3) + data[place + 3 :],
            data[:place] + bytes([data[place] ^ (1 << drawn.randrange(8))]) + data[place + 1 :],
            data[:place] + drawn.choice(ODD_BYTES) + data[place:],
        ]
    )


def _other_value(tree: Any, drawn: random.Random) -> Any:
    """The tree with one value somewhere in it replaced, removed or added."""
    if not isinstance(tree, dict | list) or not tree or drawn.random() < 0.15:
        return drawn.choice(ODD_VALUES)
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    key = drawn.choice(keys)
    changed = dict(tree) if isinstance(tree, dict) else list(tree)
    action = drawn.random()
    if action < 0.1:
        del changed[key]
    elif action < 0.2 and isinstance(changed, dict):
        changed[drawn.choice(["version", "more", "", "url"])] = drawn.choice([*ODD_VALUES, 2])
    else:
        changed[key] = _other_value(tree[key], drawn)
    return changed
