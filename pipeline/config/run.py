"""The sections ``run``, ``plan`` and ``report`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from pipeline.config.sections import Count, Section, count_or


class Run(Section):
    """How the job runs; of these only seed and part_size change what is computed."""

    seed: int = Field(0, ge=0, lt=2**63)
    part_size: Count = 64  # edits
    layout: Literal["pools", "fused", "auto"] = "pools"  # auto: the faster one, as planned
    address: str | None = None  # of a Ray cluster; none: RAY_ADDRESS, else a local Ray is started
    num_cpus: int | None = Field(None, ge=1)  # of the local Ray; none: the machine's
    cluster_wait_s: float = Field(600.0, ge=0.0)  # for a cluster's nodes to join, at the start
    shards_per_wave: Count = 1024  # between waves the actors start anew
    grace_s: float = Field(120.0, ge=0.0)  # after SIGTERM
    progress_every_s: float = Field(10.0, gt=0.0)  # between plain lines, off a terminal
    log_format: Literal["text", "json"] = "text"  # json: a line each, with shard and part
    max_restarts: int = Field(100, ge=-1)  # of an actor, in a wave; -1 = without end
    max_task_retries: int = Field(1, ge=0)  # of a part whose worker died
    max_start_retries: int = Field(3, ge=0)  # of an actor that cannot load its model, in a row
    max_memory_retries: int = Field(3, ge=0)  # of reading or finishing that Ray ended for memory
    # seconds of one step on a part, after which its worker is ended; none: an hour without a sign
    # of life (a network call, an image, a storage call)
    part_timeout_s: float | None = Field(None, gt=0.0)


class Planning(Section):
    """How a run's cost is found out; nothing here changes what is computed."""

    # Edits that are computed, and thrown away, to measure every step. auto: a few, where a size is
    # auto and no earlier run into this output says what its steps took.
    calibrate: Annotated[int | Literal["auto", "never"], count_or("auto", "never")] = "auto"


class Report(Section):
    """The HTML page ``_run/report.html``; nothing here changes what is computed."""

    enabled: bool = True  # write it at the end of every run that computed something
    max_bytes: int = Field(40_000_000, ge=1_000_000)  # of the page, images and all
    max_edits: Count = 10_000  # in the gallery; of more a stratified sample
    # pixels, the longer side of an embedded image; outputs of 0.1.0 call it picture_size
    image_size: int = Field(
        256, ge=32, le=1024, validation_alias=AliasChoices("image_size", "picture_size")
    )
    read_bytes: int = Field(4 * 1024**3, ge=0)  # of tars read for images; at least one is read
    price_per_device_hour: float | None = Field(None, ge=0.0)  # of a GPU; on a CPU run, of an actor
    currency: str = "USD"
