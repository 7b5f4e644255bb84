"""Settings that a sample brings along in its key.json."""

from __future__ import annotations

import pytest

from pipeline.config.method import Method
from pipeline.config.sample_settings import method_for, seed_for
from pipeline.records.part import Sample


def test_a_samples_own_settings_take_the_place_of_the_configs() -> None:
    """Those that it has, and no others."""
    own = method_for(Method(), Sample("a", settings={"encode_ratio": 0.5}))
    assert own == Method().model_copy(update={"encode_ratio": 0.5})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encode_ratio": True}, "encode_ratio=true: allowed are numbers"),
        ({"guidance_scale": False}, "guidance_scale=false: allowed are numbers"),
        ({"encode_ratio": 7}, "encode_ratio=7: input should be less than or equal to 1"),
        ({"strength": None}, "strength=None: input should be a valid number"),
    ],
)
def test_a_setting_that_is_no_number_in_its_range_is_refused(
    settings: dict[str, object], words: str
) -> None:
    """The message names file, key and value."""
    with pytest.raises(ValueError, match=rf"^key\.json: {words}"):
        method_for(Method(), Sample("a", settings=settings))


@pytest.mark.parametrize("seed", [True, -1, 2**63, 1.5, "1"])
def test_a_seed_is_an_integer(seed: object) -> None:
    """From 0 to 2**63 - 1."""
    with pytest.raises(ValueError, match=r"^key\.json: seed="):
        seed_for(0, Sample("a", settings={"seed": seed}))
