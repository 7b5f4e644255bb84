"""What travels between steps: a part, its samples, and the edits of each sample.

``pipeline/records/packing.py`` makes a Ray row of a part. A part that came from there has arrays
that are read-only: a step sets another array and does not change the one it got.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.records.staged import PartHeader, PartResult


class Status(StrEnum):
    """What became of an edit. Input edits = edited + unchanged + rejected + skipped + failed.

    ``skipped``: nothing asked for an edit, since no word of ``input.substitutions`` occurs.
    """

    EDITED = "edited"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass
class Edit:
    """One (image, edit text) pair; the thing that is counted.

    ``status`` is None while the edit is in flight. ``index`` counts from 0 within its sample; -1
    stands for a sample that asks for no edit or cannot be edited at all.
    """

    index: int
    edit_text: str | None = None
    status: Status | None = None
    stage: str | None = None  # where it failed, was rejected or was found unchanged
    error: str | None = None  # kind of error, or the filter's name
    message: str | None = None
    notes: list[str] = field(default_factory=list)  # e.g. "edit text truncated to 77 tokens"
    num_evals_mask: int = 0
    num_evals_encode: int = 0
    num_evals_decode: int = 0
    mask: np.ndarray | None = None  # (h, w) float32 in [0, 1] on the latent grid, 1 = edit
    difference: np.ndarray | None = None  # (h, w) float32 in [0, 1], the map the mask was cut from
    image: np.ndarray | None = None  # (H, W, 3) uint8, decoded, before the pixel composite
    embedding: np.ndarray | None = None  # Imagic: (L, D) float32, the fitted tokens
    adapter: np.ndarray | None = None  # Imagic, form lora: (P,) the fitted factors
    candidates: np.ndarray | None = None  # Imagic, form full: (S, C, h, w) float32, one a seed
    scores: dict[str, float | None] = field(default_factory=dict)  # of the score stage, by name

    def fail(self, stage: str, error: BaseException | str, message: str | None = None) -> None:
        """Ends the edit as failed. ``error`` is an exception, or the kind of error by name."""
        self.status, self.stage = Status.FAILED, stage
        if isinstance(error, BaseException):
            self.error, self.message = type(error).__name__, message or str(error)
        else:
            self.error, self.message = error, message

    @property
    def pending(self) -> bool:
        return self.status is None


@dataclass
class Sample:
    """One sample of an input shard: an image, its caption, and its edits."""

    key: str
    caption: str | None = None
    suffix: str | None = None  # of the image's member, e.g. "jpg"
    encoded: bytes | None = None  # the member as read; dropped by prepare unless finish needs it
    encoded_mask: bytes | None = None  # key.mask.png as read; dropped by prepare
    extras: dict[str, bytes] = field(default_factory=dict)  # other members, passed through
    metadata: dict[str, Any] = field(default_factory=dict)  # key.json
    settings: dict[str, Any] = field(default_factory=dict)  # key.json's encode_ratio, seed, ...
    source_sha256: str | None = None
    source_width: int | None = None  # pixels, after EXIF rotation
    source_height: int | None = None
    image: np.ndarray | None = None  # (H, W, 3) uint8, prepared: the model's image
    supplied_mask: np.ndarray | None = None  # (H, W) uint8, 255 = edit, prepared like the image
    latent: np.ndarray | None = None  # (C, h, w) the clean latent
    trajectory: np.ndarray | None = None  # (K + 1, C, h, w), level 0 (clean) first
    edits: list[Edit] = field(default_factory=list)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the latent in cells. Samples of one grid are computed in one batch."""
        assert self.latent is not None, "the mask stage sets it for every pending sample"
        height, width = self.latent.shape[1:]
        return height, width

    @property
    def pending(self) -> list[Edit]:
        """The edits still in flight, in order."""
        return [edit for edit in self.edits if edit.pending]

    def fail(self, stage: str, error: BaseException | str, message: str | None = None) -> None:
        """Fails every edit of the image that is still in flight."""
        for edit in self.pending:
            edit.fail(stage, error, message)


@dataclass
class Part:
    """A fixed run of consecutive edits of one input shard, computed and staged as one."""

    shard: str
    index: int
    num_parts: int
    samples: list[Sample] = field(default_factory=list)
    problem: str | None = None  # why the shard could not be read completely, if so
    input_sha256: str = ""  # of the shard's object as it was read
    generation: str = ""  # see ``pipeline.storage.layout``
    seconds: dict[str, float] = field(default_factory=dict)  # by step, for the marker only
    hosts: list[str] = field(default_factory=list)  # likewise
    device: str | None = None  # kind of device that computed it, e.g. "cpu" or a GPU's name
    halvings: dict[str, int] = field(default_factory=dict)  # of the micro-batch, by stage
    table: pa.Table | None = None  # the rows with their members, once the part is finished
    result: PartResult | None = None  # once it is committed

    @property
    def edits(self) -> list[Edit]:
        return [edit for sample in self.samples for edit in sample.edits]

    def fail(self, stage: str, error: BaseException | str, message: str | None = None) -> None:
        """Fails every edit of the part that is still in flight."""
        for sample in self.samples:
            sample.fail(stage, error, message)

    def fail_sample(self, key: str, stage: str, error: str, message: str) -> None:
        """Fails the edits of one sample that are still in flight."""
        for sample in self.samples:
            if sample.key == key:
                sample.fail(stage, error, message)

    def header(self, fingerprint: str = "", code: str = "") -> PartHeader:
        """What the marker will say of this part.

        Args:
            fingerprint: of the run that computes it.
            code: hash of the sources that compute it.
        """
        return PartHeader(
            shard=self.shard,
            index=self.index,
            num_parts=self.num_parts,
            num_rows=len(self.edits),
            fingerprint=fingerprint,
            problem=self.problem,
            seconds=self.seconds,
            hosts=self.hosts,
            device=self.device,
            halvings=self.halvings,
            code=code,
            input_sha256=self.input_sha256,
            generation=self.generation,
        )
