"""Counted memory: weights are those of the loaded networks, calls those of a measured process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.imagic import Imagic
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.counted_fit import count_fit
from pipeline.models.counted_memory import count_memory, weights_bytes
from pipeline.models.loading import load_model
from pipeline.models.memory_facts import CountedMemory
from pipeline.models.probe import probe_model
from tests.models.family_cases import CASES
from tests.tiny_models import make_tiny_sd3, make_tiny_sdxl

MAKERS: dict[str, Callable[[Path], Path]] = {
    **{name: case.make for name, case in CASES.items()},
    "sd3": make_tiny_sd3,
    "sdxl": make_tiny_sdxl,
}
# A heap that gives every large block back at once; what glibc's own keeps is not the calls'.
NO_HEAP = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
WITHIN, FIT_WITHIN = 1.2, 1.12


def counted(model: Model) -> CountedMemory:
    return count_memory(probe_model(model, hash_files=False), model)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*((name, "float32") for name in MAKERS), ("sd3", "float16"), ("sdxl", "float16")],
)
def test_weights_are_those_of_the_loaded_networks(family: str, dtype: str, tmp_path: Path) -> None:
    """Of every family; T5's float32 weights in float16 and upcast VAEs included."""
    model = Model(path=str(MAKERS[family](tmp_path / "model")), size=32, dtype=dtype)
    found = counted(model)
    loaded = load_model(model, "cpu", Stage())
    texts = sum(weights_bytes(tower.encoder) for tower in loaded.text.towers)
    assert found.network == weights_bytes(loaded.unbatched.network)
    assert found.texts == pytest.approx(texts, abs=4)  # a scalar of Gemma's
    vae = loaded.image_coder.vae
    shared = weights_bytes(vae.bn) if hasattr(vae, "bn") else 0  # of latents
    assert found.encoder + found.decoder == weights_bytes(vae) + shared
    assert min(found.of_network.row, found.of_encoder.row, found.of_decoder.row) > 0
    longest = loaded.text.encode(["dog " * 600])
    condition = longest.tokens.nbytes + (0 if longest.pooled is None else longest.pooled.nbytes)
    assert condition <= found.condition <= 1.2 * condition  # an instruction before a text included


def test_calls_take_what_is_counted(tiny_model_folder: Path) -> None:
    """Network and both halves of the VAE, to a fifth, in the resident memory of a process."""
    calls = [("bundled", 8, 128), (str(tiny_model_folder), 64, 64)]
    measured = [json.loads(line) for line in _measured(json.dumps(calls))[-2:]]
    for (path, rows, side), of_model in zip(calls, measured, strict=True):
        found = counted(Model(path=path, size=side, dtype="float32"))
        for name, num_bytes in of_model.items():
            wanted = getattr(found, name).of(rows)
            assert wanted / WITHIN < num_bytes < wanted * WITHIN, (path, name)


@pytest.mark.slow
def test_a_fit_takes_what_is_counted() -> None:
    """LoRA factors of 4 edits, and all weights with the copy that restores them, to an eighth."""
    model = Model(path="bundled", size=128, dtype="float32")
    info = probe_model(model, hash_files=False)
    fits = [("bundled", 4, 128, "lora"), ("bundled", 1, 128, "full")]
    measured = json.loads(_measured("fit", json.dumps(fits))[-1])
    copy = counted(model).network
    for (_, edits, _, form), num_bytes in zip(fits, measured, strict=True):
        found = count_fit(info, model, Imagic(form=form))
        wanted = found.of(edits) + (copy if form == "full" else 0)
        assert wanted / FIT_WITHIN < num_bytes < wanted * FIT_WITHIN, form


def test_checkpoints_keep_fewer_activations(tiny_model_folder: Path) -> None:
    """They are computed again in the backward pass, attention included."""
    model = Model(path=str(tiny_model_folder), size=64, dtype="float32")
    info = probe_model(model, hash_files=False)
    whole, checkpointed = (
        count_fit(info, model, Imagic(form="lora", checkpointing=kept)) for kept in (False, True)
    )
    assert checkpointed.row < 0.6 * whole.row


def _measured(*arguments: str) -> list[str]:
    """Lines of a process that measures itself."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.measured_memory", *arguments],
        env=os.environ | NO_HEAP,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()
