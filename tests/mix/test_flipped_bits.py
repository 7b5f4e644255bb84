"""A flipped bit in any file of a mix is found, and mixing again writes the whole one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.mix.marker import CARD, PLAN_FILE
from pipeline.mix.mix import run_mix
from pipeline.mix.plan import make_mix_plan
from pipeline.mix.verify import verify_mix
from pipeline.records.run_files import RunFileError
from pipeline.storage.store import Store
from tests.committing import contents
from tests.harmless import is_harmless
from tests.mix.boxed import FORMATS, make_boxed, mix_of


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxed")
    make_boxed(folder, shards=1, images=2)
    return folder


@pytest.mark.parametrize(
    "flips", [4, pytest.param(100, marks=pytest.mark.sweep)], ids=lambda flips: f"{flips} flips"
)
@pytest.mark.parametrize("form", ["webdataset", *FORMATS])
def test_every_flipped_bit_is_found(boxed: Path, tmp_path: Path, form: str, flips: int) -> None:
    """The card is its owner's; a plan that cannot be read is refused by name."""
    mix = mix_of(boxed, tmp_path / "mixed", format=form)
    run_mix(make_mix_plan(mix))
    store, whole = Store(f"{tmp_path}/mixed"), contents(tmp_path / "mixed")
    names = sorted(name for name in whole if name != CARD)
    drawn = random.Random(form)
    for number in range(flips):
        name = names[number % len(names)] if number < len(names) else drawn.choice(names)
        data = bytearray(store.get(name))
        byte, bit = drawn.randrange(len(data)), drawn.randrange(8)
        data[byte] ^= 1 << bit
        store.put(name, bytes(data))
        place = (name, byte, bit)
        if is_harmless(whole[name], bytes(data)):
            store.put(name, whole[name])
            continue
        assert verify_mix(store).problems, place
        if name == PLAN_FILE:
            with pytest.raises(RunFileError, match=f"{PLAN_FILE}: is damaged"):
                make_mix_plan(mix)
            store.put(name, whole[name])
        else:
            run_mix(make_mix_plan(mix))
        assert contents(tmp_path / "mixed") == whole, place
