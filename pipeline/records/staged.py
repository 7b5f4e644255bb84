"""What is known of a part beside its samples: the header of a staged part, and its result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass
class PartHeader:
    """Which part a staged table is, and how it was computed. The shard's marker sums these up."""

    shard: str
    index: int
    num_parts: int  # of the shard
    num_rows: int
    fingerprint: str
    problem: str | None = None  # why the shard could not be read to its end, if so
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    hosts: list[str] = field(default_factory=list)
    device: str | None = None  # kind of device that computed it
    halvings: dict[str, int] = field(default_factory=dict)  # of the micro-batch, by stage
    code: str = ""  # hash of the sources that computed it; "" of what 0.1.0 staged
    input_sha256: str = ""  # of the shard's object as it was read; likewise
    generation: str = ""  # see ``pipeline.storage.layout``; likewise

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> PartHeader:
        """Raises ValueError or TypeError for a text that is no header."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class PartResult:
    """What the driver learns of a committed part. Small: Ray keeps results in its own memory."""

    shard: str
    part: int
    counts: dict[str, int]  # rows by status, filters applied
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    num_evals: dict[str, int] = field(default_factory=dict)  # network evaluations, by stage
    halvings: dict[str, int] = field(default_factory=dict)  # of the micro-batch, by stage
    published: bool = False  # this part completed its shard
    part_id: tuple[str, int, int] = ("", 0, 0)  # ``pipeline.storage.layout.PartId``

    @property
    def num_edits(self) -> int:
        return sum(self.counts.values())

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PartResult:
        tree = json.loads(text)
        return cls(**tree | {"part_id": tuple(tree["part_id"])})
