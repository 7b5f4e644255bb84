"""The marker of a published shard: what was published, and how it was computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from pipeline.config.filters import Filtering
from pipeline.records.run_files import Amount, Count, RunFileError, parse_record, sealed_json
from pipeline.storage.layout import marker_name
from pipeline.storage.store import Store

VERSION = 1
REMEDY = "restore it, or remove it, and the next run computes the shard again"


@dataclass
class ShardStats:
    """The marker ``<shard>_stats.json``: what was published and how it was computed."""

    shard: str
    fingerprint: str
    num_parts: Count
    counts: dict[str, Count]  # by status; their sum is the number of rows
    failures: dict[str, Count]  # failed rows by "stage: kind of error"
    tar_bytes: Count
    tar_sha256: str
    parquet_bytes: Count
    parquet_sha256: str
    problem: str | None  # why the input shard could not be read completely
    num_evals: dict[str, Count]  # network evaluations by stage
    seconds: dict[str, Amount]  # by step, summed over the parts
    hosts: list[str]
    devices: list[str]
    halvings: dict[str, Count]  # of the micro-batch after an out-of-memory error, by stage
    published_at: str  # UTC, ISO 8601
    part_rows: list[Count] = field(default_factory=list)  # rows of each part, in their order
    model_revision: str = ""  # hub commit, or sha256 of a local folder's files
    filters: str = Filtering().fingerprint  # of the filters that it was published with
    rejections: dict[str, Count] = field(default_factory=dict)  # rejected rows by filter
    rejected_bytes: Count = 0
    rejected_sha256: str | None = None  # of the tar of rejected images, where there is one
    codes: list[str] = field(default_factory=list)  # hashes of the sources that computed parts
    left_out: Count = 0  # rows of samples with files that input.pass_through leaves out
    cut_masks: Count = 0  # edited rows whose mask meets the border of the model's crop
    input_sha256: str = ""  # of the input shard's object; "" of what 0.1.0 published
    generation: str = ""  # of its parts, likewise
    version: int = VERSION
    digest: str = ""  # sha256 of this file with "" in this place; "" of what 0.1.0 published

    @property
    def num_rows(self) -> int:
        return sum(self.counts.values())

    def to_json(self) -> bytes:
        return sealed_json(asdict(self), ascii_only=True)

    @classmethod
    def from_json(cls, data: bytes, name: str = "the marker") -> ShardStats:
        """The marker in an object of this name.

        Raises:
            RunFileError: the bytes are no marker, or one of a newer version.
        """
        stats = parse_record(data, name, cls, remedy=REMEDY, newest=VERSION)
        if stats.part_rows and len(stats.part_rows) != stats.num_parts:
            reason = f"is damaged: {len(stats.part_rows)} part_rows for {stats.num_parts} parts"
            raise RunFileError(name, reason, REMEDY)
        return stats


def read_marker(store: Store, shard: str) -> ShardStats | None:
    """The marker of a shard; None if the shard is not published.

    Raises:
        RunFileError: it cannot be used, or is another shard's.
    """
    place = f"{store.url}/{marker_name(shard)}"
    try:
        stats = ShardStats.from_json(store.get(marker_name(shard)), place)
    except FileNotFoundError:
        return None
    if stats.shard != shard:
        raise RunFileError(place, f"is the marker of another shard, {stats.shard!r}", REMEDY)
    return stats
