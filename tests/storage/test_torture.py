"""A shard of 20 samples, cut and bit-flipped everywhere: no sample is lost without a reason."""

from __future__ import annotations

import io
import tarfile

import numpy as np

from pipeline.config.input import Input
from pipeline.records.part import Sample
from pipeline.steps.read import read_shard
from tests.samples import shard_bytes

NUM_SAMPLES = 20
# The reader does not decode images, so any bytes of more than one block will do.
BODIES = [bytes([number]) * (700 + 97 * number) for number in range(NUM_SAMPLES)]
WHOLE = shard_bytes(
    [
        {"__key__": f"{number:02d}", "png": body, "txt": "a dog", "edit.txt": "a cat"}
        for number, body in enumerate(BODIES)
    ]
)
CONFIG = Input(shards="in.tar")
with tarfile.open(fileobj=io.BytesIO(WHOLE)) as archive:
    INFOS = archive.getmembers()
# Where each sample's last member ends: a cut at or after this byte leaves the sample intact.
ENDS = [INFOS[3 * number + 2].offset_data + INFOS[3 * number + 2].size for number in range(20)]
CONTENT_END = len(WHOLE.rstrip(b"\0")) // 512 * 512 + 512


def intact(samples: list[Sample]) -> list[str]:
    """Keys of the samples without an error; checks that each has the right image bytes."""
    fine = [sample for sample in samples if sample.pending]
    assert all(sample.encoded == BODIES[int(sample.key)] for sample in fine)
    return [sample.key for sample in fine]


def check_cut(cut: int) -> None:
    contents = read_shard(WHOLE[:cut], CONFIG)
    assert (contents.problem is None) == (cut >= CONTENT_END + 512), cut
    whole = [f"{number:02d}" for number, end in enumerate(ENDS) if end <= cut]
    assert intact(contents.samples)[: len(whole)] == whole, cut
    assert len(contents.samples) <= len(whole) + 1, cut  # plus the sample that is cut
    assert all(edit.error for p in contents.samples for edit in p.edits if not edit.pending), cut


def test_a_shard_cut_at_every_block() -> None:
    """Samples before the cut are intact, and a missing end is reported."""
    for cut in range(0, len(WHOLE) + 1, 512):
        check_cut(cut)


def test_a_shard_cut_at_500_seeded_offsets() -> None:
    """The same holds for cuts inside blocks."""
    for cut in np.random.default_rng(0).integers(0, len(WHOLE), 500):
        check_cut(int(cut))


def test_a_flipped_bit_costs_at_most_its_own_sample() -> None:
    """After each of 500 seeded flips, all other samples are intact."""
    generator = np.random.default_rng(1)
    for place in generator.integers(0, len(WHOLE), 500):
        data = bytearray(WHOLE)
        data[place] ^= 1 << int(generator.integers(8))
        contents = read_shard(bytes(data), CONFIG)
        hit = next((n for n, end in enumerate(ENDS) if place < -(-end // 512) * 512), None)
        fine = {
            sample.key for sample in contents.samples if sample.pending and sample.encoded in BODIES
        }
        others = {f"{number:02d}" for number in range(NUM_SAMPLES) if number != hit}
        assert others <= fine, place
        keys = [sample.key for sample in contents.samples]
        assert contents.problem is not None or len(keys) >= NUM_SAMPLES, place
