"""``overpaint convert``: makes a model's folder of a checkpoint in one file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from safetensors import SafetensorError

from jobs import exit_codes
from jobs.terminal import show
from pipeline.config.load import ConfigError
from pipeline.convert.folder import check_target, convert
from pipeline.convert.plan import XL, Conversion, plan_conversion


def convert_checkpoint(
    checkpoint: str, folder: str, base: str, *, revision: str | None, from_base: list[str]
) -> int:
    """Writes a model's folder of a checkpoint and prints the next command.

    Args:
        checkpoint: a safetensors file.
        folder: of the model, new or empty.
        base: a folder in diffusers' format, or a hub id, of a model of the same kind.
        revision: of a hub id.
        from_base: the parts whose weights shall come from the base.

    Returns:
        The exit code: 1 if the folder could not be written.

    Raises:
        ConfigError: the checkpoint, the base and the folder do not match.
    """
    target = Path(folder).expanduser()
    try:
        check_target(target)
        plan = plan_conversion(Path(checkpoint).expanduser(), base, revision, from_base)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    for line in plan.notes:
        show(line)
    try:
        convert(plan, target, show)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except (OSError, SafetensorError) as error:
        show(f"overpaint: {folder}: {error}; nothing was left there", to=sys.stderr)
        return exit_codes.INCOMPLETE
    show(f"{plan.family.name}: {folder}")
    show(f"next: {_next_command(plan, folder)}")
    return exit_codes.OK


def _next_command(plan: Conversion, folder: str) -> str:
    if plan.checkpoint.is_vae:
        return f"overpaint edit CONFIG model.vae={shlex.quote(folder)}"
    config = "diffedit_sdxl_1024" if plan.family.name == XL else "diffedit_sd15_512"
    return f"overpaint edit {config} {shlex.quote(f'model.path={folder}')} input.shards=... " + (
        "output.path=..."
    )
