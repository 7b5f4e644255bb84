"""``overpaint verify``: audits an output and prints the problems."""

from __future__ import annotations

import sys

from jobs.commands.open_output import open_output
from jobs.terminal import show
from pipeline.config.load import ConfigError
from pipeline.mix.verify import MixReport, is_mix, verify_mix
from pipeline.steps.verify import VerifyReport, verify


def verify_output(
    path: str, storage_options: list[str] | None = None, *, inputs: bool = False
) -> int:
    """Returns 0 if the audit of an output, or of a mix, finds no problem, else 1.

    Args:
        path: of the output or mix.
        storage_options: key=value, for the output and the inputs.
        inputs: compare the input shards with the markers of the output.

    Raises:
        ConfigError: the store cannot be listed or read.
    """
    output = open_output(path, storage_options or [])
    report: VerifyReport | MixReport
    try:
        if is_mix(output):
            report, unit = verify_mix(output), "samples"
        else:
            audit = verify(output, inputs=inputs, input_options=output.storage_options)
            for note in audit.notes:
                show(note)
            report, unit = audit, "rows"
    except OSError as error:
        raise ConfigError(f"{path}: {error or type(error).__name__}") from error
    for problem in report.problems:
        show(problem, to=sys.stderr)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(report.counts.items()))
    total = sum(report.counts.values())
    show(f"{report.num_shards} shards, {total} {unit}: {counts or 'none'}")
    show("verified" if not report.problems else f"{len(report.problems)} problems")
    return 1 if report.problems else 0
