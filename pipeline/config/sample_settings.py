"""The method as used for one sample: the configuration's, with the settings in its key.json."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from pipeline.config.method import Method
from pipeline.records.part import Sample

OWN_SETTINGS = ("encode_ratio", "strength", "guidance_scale")


def method_for(method: Method, sample: Sample) -> Method:
    """The method with the sample's own settings.

    Raises:
        ValueError: a setting is out of range; names the key, its value and what is allowed.
    """
    own = {name: sample.settings[name] for name in OWN_SETTINGS if name in sample.settings}
    if not own:
        return method
    for name, value in own.items():
        # pydantic would also read "0.5" and true as numbers
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"key.json: {name}={json.dumps(value)}: allowed are numbers")
    try:
        return Method.model_validate(method.model_dump() | own)
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(str(part) for part in item["loc"])
        raise ValueError(f"key.json: {key}={item['input']!r}: {item['msg'].lower()}") from None


def seed_for(run_seed: int, sample: Sample) -> int:
    """The sample's own seed, else the run's.

    Raises:
        ValueError: the sample's own seed is not an integer from 0 to 2**63 - 1.
    """
    seed = sample.settings.get("seed", run_seed)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"key.json: seed={seed!r}: allowed are integers from 0 to 2**63 - 1")
    return seed


def resolved_settings(method: Method, sample: Sample) -> dict[str, Any]:
    """Every setting of the method as used for a sample, for its rows. Can be written as JSON."""
    try:
        return method_for(method, sample).model_dump(mode="json")
    except ValueError:  # its rows failed because of these settings, so they show them
        return method.model_dump(mode="json") | sample.settings
