"""The model families, one file each. A file here is found by itself; nothing lists them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from pipeline.models.family import Family
from pipeline.models.family_facts import UnsupportedModelError


@cache
def all_families() -> tuple[Family, ...]:
    """Every family, in the order of the names of their files; each file has a ``FAMILY``."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(module.FAMILY for module in modules)


def family_of(pipeline_class: str) -> Family:
    """The family of a class in ``model_index.json``.

    Raises:
        UnsupportedModelError: there is none; the message says what a folder of each holds.
    """
    for family in all_families():
        if pipeline_class in family.pipelines:
            return family
    known = "; ".join(family.needs for family in all_families())
    raise UnsupportedModelError(
        f"pipeline class {pipeline_class}; allowed are the families {known}"
    )


def family_named(name: str) -> Family:
    """The family that ``ModelInfo.family`` names."""
    return next(family for family in all_families() if family.name == name)


def names_where(attribute: str) -> str:
    """The names of the families of which something is true, for errors."""
    return ", ".join(family.name for family in all_families() if getattr(family, attribute))
