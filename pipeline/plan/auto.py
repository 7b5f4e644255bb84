"""Settings that are ``auto`` and change computed bytes: a resumed output keeps what it has.

So a run can be resumed with other pools, in another layout or on another kind of machine, and
writes the same bytes.
"""

from __future__ import annotations

from pipeline.config.config import Config
from pipeline.models.precision import resolved_dtype
from pipeline.records.run_files import RunRecord


def resolved(
    config: Config, device: str, saved: RunRecord | None, *, bfloat16: bool | None = None
) -> Config:
    """The configuration with a number of threads and a dtype.

    Args:
        config: as loaded.
        device: "cpu" or "cuda".
        saved: of the output that is resumed; None: of a new one.
        bfloat16: whether the device has it in hardware; None: this machine's is asked.
    """
    return _with_dtype(_with_threads(config, saved), device, saved, bfloat16)


def _with_threads(config: Config, saved: RunRecord | None) -> Config:
    kept = None if saved is None else saved.threads
    if kept is None or config.stages.given_threads(config.stage_names) is not None:
        return config.with_threads(config.threads)
    return config.with_threads(kept)


def _with_dtype(
    config: Config, device: str, saved: RunRecord | None, bfloat16: bool | None
) -> Config:
    if config.model.dtype != "auto":
        return config
    dtype = None if saved is None else saved.dtype
    if dtype is None and config.method.imagic is not None:
        dtype = "float32"  # the steps of a fit are small
    if dtype is None:
        dtype = resolved_dtype("auto", device, bfloat16=bfloat16)
    return config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})
