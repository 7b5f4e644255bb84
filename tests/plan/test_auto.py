"""What ``model.dtype: auto`` becomes, and what a resumed output keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models import precision
from pipeline.models.loading import load_model
from pipeline.plan.auto import resolved
from pipeline.plan.plan import make_plan
from pipeline.plan.run_folder import write_run_folder
from tests.samples import raw_sample, write_shard

COMPUTES_BFLOAT16 = precision.computes_bfloat16  # the fixture of all tests replaces it
IMAGIC = ["method.name=imagic", "method.imagic.form=lora"]


def config(home: Path, *overrides: str) -> Config:
    """A run of one shard with the demo's settings."""
    (home / "in").mkdir(exist_ok=True)
    write_shard(home / "in" / "0.tar", [raw_sample("a")])
    return load_config("demo", [f"input.shards={home}/in", f"output.path={home}/out", *overrides])


@pytest.mark.parametrize(
    ("given", "has", "expected"),
    [
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
        ("float16", True, "float16"),
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_the_hardware_has_it(given: str, has: bool, expected: str) -> None:
    """Anything else is taken as it is given."""
    assert precision.resolved_dtype(given, "cpu", bfloat16=has) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512f avx512_bf16", True),
        ("fpu amx_bf16 amx_tile", True),
        ("fpu avx2 avx512f", False),
        ("", False),
    ],
)
def test_a_cpu_is_asked_for_its_instructions(
    flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Linux's list; where there is none, float32 is right everywhere."""
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags.split()))
    assert COMPUTES_BFLOAT16("cpu") is expected


def test_a_run_has_one_dtype_which_its_output_keeps(tmp_path: Path) -> None:
    """Also on a machine that would choose another; a given dtype that differs is refused."""
    first = make_plan(config(tmp_path), "cpu", bfloat16=True)
    assert first.config.model.dtype == "bfloat16"
    write_run_folder(first)
    again = make_plan(config(tmp_path), "cpu", bfloat16=False)
    assert (again.config.model.dtype, again.fingerprint) == ("bfloat16", first.fingerprint)
    given = make_plan(config(tmp_path, "model.dtype=bfloat16"), "cpu", bfloat16=False)
    assert given.fingerprint == first.fingerprint
    with pytest.raises(ValueError, match="has 'bfloat16', this run asks for 'float32'"):
        make_plan(config(tmp_path, "model.dtype=float32"), "cpu", bfloat16=True)


def test_imagic_is_fitted_in_float32(tmp_path: Path) -> None:
    """Whatever the hardware has."""
    chosen = resolved(config(tmp_path, *IMAGIC), "cpu", None, bfloat16=True)
    assert chosen.model.dtype == "float32"


def test_a_model_that_no_run_loads_asks_its_own_machine(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the library's functions do."""
    settings = Model(path=str(tiny_model_folder))
    assert load_model(settings, "cpu", Stage()).dtype == torch.float32
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: device == "cpu")
    assert load_model(settings, "cpu", Stage()).dtype == torch.bfloat16
