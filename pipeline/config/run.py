"""The sections ``run``, ``plan`` and ``report`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from pipeline.config.sections import LONGEST_S, Count, Section, count_or


class Run(Section):
    """How the job runs. Of these keys only `seed` and `part_size` change what is computed."""

    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Seed of all noise.",
    )
    part_size: Count = Field(
        64,
        description="Edits that are computed and staged as one part. Lower it if a part takes "
        "too much memory.",
    )
    layout: Literal["pools", "fused", "auto"] = Field(
        "auto",
        description="`pools`: a pool of actors for each stage. `fused`: all stages in one actor, "
        "for a single GPU. `auto`: the faster one, as planned. All write the same bytes.",
    )
    max_failed_share: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="A complete run ends with exit code 3 if more of its edits failed than this "
        "share; skipped ones do not count. 1 accepts any.",
    )
    accept_code: str | None = Field(
        None,
        description="Hash of this installation's code: resume an output that other code began, "
        "where both compute the same bytes. The error that asks for it names the hash.",
    )
    address: str | None = Field(
        None,
        description="Address of a Ray cluster; null takes `RAY_ADDRESS`, or starts a local Ray.",
    )
    num_cpus: int | None = Field(
        None, ge=1, description="CPUs of the local Ray; null takes all of the machine."
    )
    cluster_wait_s: float = Field(
        600.0,
        ge=0.0,
        le=LONGEST_S,
        description="Seconds to wait for nodes: at the start for those of a cluster to join, later "
        "for lost ones to come back where no part is done without them.",
    )
    num_nodes: int | None = Field(
        None,
        ge=1,
        description="Nodes of the Ray cluster, its head included, to wait for before the run is "
        "planned, for at most `cluster_wait_s`. null: as many as the smallest pools need.",
    )
    readers: Annotated[Count | Literal["auto"], count_or("auto")] = Field(
        "auto",
        description="Shards that are read at once. `auto`: as many as feed the pools, within "
        "`read_memory_bytes`.",
    )
    read_memory_bytes: int | None = Field(
        None,
        ge=1,
        description="Main memory for the shards that are read at once, in all of the cluster; each "
        "takes 200 MiB and one and a half times a part. null: a fifth of the memory of all nodes.",
    )
    write_memory_bytes: int | None = Field(
        None,
        ge=0,
        description="Main memory that Ray reserves for each task that finishes a part and "
        "publishes its shard. null: 200 MiB and four times a part, at most a tenth of "
        "the smallest node's memory.",
    )
    shards_per_wave: Annotated[Count | Literal["auto"], count_or("auto")] = Field(
        "auto",
        description="Input shards in a wave. Actors are started anew for each wave, for the nodes "
        "that are there then. `auto`: half an hour of work, or 50 times what an actor takes to "
        "start if that is longer.",
    )
    grace_s: float = Field(
        120.0,
        ge=0.0,
        le=LONGEST_S,
        description="Seconds that parts in flight have to finish after SIGTERM, Ctrl-C or SIGHUP.",
    )
    progress_every_s: float = Field(
        10.0,
        gt=0.0,
        le=LONGEST_S,
        description="Seconds between progress lines where the output is not a terminal.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="`json` writes one JSON object a line, with shard and part."
    )
    max_restarts: int = Field(
        100, ge=-1, description="Restarts of one actor within a wave; -1 sets no limit."
    )
    max_task_retries: int = Field(1, ge=0, description="Retries of a part whose worker died.")
    max_start_retries: int = Field(
        3, ge=0, description="Retries in a row of an actor that cannot load its model."
    )
    max_memory_retries: int = Field(
        3,
        ge=0,
        description="Retries of reading or finishing after Ray's memory monitor ended it.",
    )
    part_timeout_s: float | None = Field(
        None,
        gt=0.0,
        le=LONGEST_S,
        description="Seconds that one step may take on a part before its worker is ended. null: "
        "the limit is on the time without a heartbeat, ten times what a part takes "
        "(10 minutes to an hour; an hour if unknown).",
    )


class Planning(Section):
    """How the cost of a run is estimated. Nothing here changes what is computed."""

    calibrate: Annotated[Count | Literal["auto", "never"], count_or("auto", "never")] = Field(
        "auto",
        description="Edits that are computed and thrown away to time every step. `auto`: a few, "
        "if a size is `auto`, no earlier run into this output has timed them, and they are at most "
        "a twentieth of the run.",
    )
    device_memory_bytes: int | None = Field(
        None,
        ge=1,
        description="Memory that `overpaint plan` finds the largest sizes for: of a GPU, or on a "
        "CPU of an actor. null: of the GPU that a calibration ran on; on a CPU an actor's share of "
        "its node.",
    )


class Report(Section):
    """The HTML page `_run/report.html`. Nothing here changes what is computed."""

    enabled: bool = Field(
        True, description="Write the page at the end of every run that computed something."
    )
    max_bytes: int = Field(
        40_000_000, ge=1_000_000, description="Bytes of the page, images included."
    )
    max_edits: Count = Field(
        10_000, description="Edits in the gallery. A larger output shows a stratified sample."
    )
    # Configurations that 0.1.0 wrote into its outputs call it picture_size.
    image_size: int = Field(
        256,
        ge=32,
        le=1024,
        validation_alias=AliasChoices("image_size", "picture_size"),
        description="Pixels of the longer side of an image in the page.",
    )
    read_bytes: int = Field(
        4 * 1024**3,
        ge=0,
        description="Bytes of tars to read for images. At least one tar is read.",
    )
    price_per_device_hour: float | None = Field(
        None,
        ge=0.0,
        description="Price of an hour of one GPU (on CPUs: of one actor); null shows no cost.",
    )
    currency: str = Field("USD", description="Currency of that price, as shown.")
