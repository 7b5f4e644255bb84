"""Prints, as JSON, the memory that calls of a model really took in this process, by network.

python -m tests.models.measured_memory '[[MODEL, ROWS, SIDE], ...]'
python -m tests.models.measured_memory fit '[[MODEL, EDITS, SIDE, FORM], ...]'
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.loading import load_model
from pipeline.stages.imagic.fit import ImagicFitStage
from tests.parts import make_config, make_prepared


def peak_bytes(call: Callable[[], object]) -> int:
    """How far this process's resident memory rises during a call above what it was before.

    A call before this one has loaded libraries and touched the weights.
    """
    call()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
    before = _kilobytes("VmRSS")
    call()
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def measured(path: str, num_rows: int, side: int) -> dict[str, int]:
    """Bytes of a call of each network with so many rows, in float32."""
    model = load_model(
        Model(path=path, size=side, dtype="float32"), "cpu", Stage(micro_batch=num_rows)
    )
    cells = side // model.info.latent_scale
    level = model.schedule.level_at(0.5)
    latents = torch.randn(num_rows, model.info.latent_channels, cells, cells)
    condition = model.text.encode(["a cat"])[torch.zeros(num_rows, dtype=torch.long)]
    images = [np.zeros((side, side, 3), np.uint8)] * num_rows
    calls: dict[str, Callable[[], object]] = {
        "of_network": lambda: model.unbatched(latents, level, condition),
        "of_encoder": lambda: model.image_coder.encode(images),
        "of_decoder": lambda: model.image_coder.decode_each(latents),
    }
    return {name: peak_bytes(call) for name, call in calls.items()}


def measured_fit(path: str, num_edits: int, side: int, form: str) -> int:
    """Bytes of a fit of so many edits, in float32; of all weights with the copy to restore them."""
    method = make_config(
        name="imagic", imagic={"form": form, "embedding_steps": 2, "model_steps": 2, "seeds": 1}
    ).method
    rows = 2 * num_edits
    model = load_model(
        Model(path=path, size=side, dtype="float32"), "cpu", Stage(micro_batch=rows), []
    )
    stage = ImagicFitStage(model, method, 0)
    cells = side // model.info.latent_scale
    pairs = []
    for number in range(num_edits):
        sample = make_prepared(number)
        sample.latent = np.zeros((model.info.latent_channels, cells, cells), np.float32)
        sample.edits[0].mask = np.ones((cells, cells), np.float32)
        pairs.append((sample, sample.edits[0]))
    if stage.sites is None:
        return peak_bytes(lambda: stage._fit_fully("shard", pairs[0]))
    sites = stage.sites
    return peak_bytes(lambda: stage._fit_factors(sites, "shard", pairs))


if __name__ == "__main__":
    if sys.argv[1] == "fit":
        print(json.dumps([measured_fit(*arguments) for arguments in json.loads(sys.argv[2])]))
        sys.exit()
    with torch.inference_mode():
        for arguments in json.loads(sys.argv[1]):
            print(json.dumps(measured(*arguments)))
