"""Settings that a sample has in its key.json."""

from __future__ import annotations

import pytest

from pipeline.config.method import Method
from pipeline.config.sample_settings import method_for, seed_for
from pipeline.records.part import Sample


def test_own_settings_of_a_sample_replace_the_configured_ones() -> None:
    """Only those that it has."""
    own = method_for(Method(), Sample("a", settings={"encode_ratio": 0.5}))
    assert own == Method().model_copy(update={"encode_ratio": 0.5})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encode_ratio": True}, "encode_ratio=true: allowed are numbers"),
        ({"guidance_scale": False}, "guidance_scale=false: allowed are numbers"),
        ({"encode_ratio": "0.5"}, 'encode_ratio="0.5": allowed are numbers'),
        ({"encode_ratio": 7}, "encode_ratio=7: input should be less than or equal to 1"),
        ({"strength": None}, "strength=null: allowed are numbers"),
    ],
)
def test_own_setting_must_be_a_number_in_its_range(settings: dict[str, object], words: str) -> None:
    """The message names the file, the key and the value."""
    with pytest.raises(ValueError, match=rf"^key\.json: {words}"):
        method_for(Method(), Sample("a", settings=settings))


@pytest.mark.parametrize("seed", [True, -1, 2**63, 1.5, "1"])
def test_a_seed_is_an_integer(seed: object) -> None:
    """From 0 to 2**63 - 1."""
    with pytest.raises(ValueError, match=r"^key\.json: seed="):
        seed_for(0, Sample("a", settings={"seed": seed}))
