"""Faults for whole runs: in every process of a run, by the key of the sample that meets them.

A run is started with the environment that ``install`` makes. A sample whose key is
``<fault>-<step>`` then meets that fault in that step: read, prepare, mask, encode, decode, finish
or write. The three stages are replaced by arithmetic on pixels that needs no torch, so that a
process that dies is replaced within a second.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.records.part import Part, Sample, Status
from tests.jobs.killer import on_storage_call

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "OVERPAINT_TEST_FAULTS"  # where faults leave what they remember; no folder: no faults
LOADS = "OVERPAINT_TEST_LOADS"  # see _load
PACE = "OVERPAINT_TEST_PACE"  # a folder that says how long a part takes; none: no time
WARNS = "OVERPAINT_TEST_WARNS"  # set: LIBRARY warns at each mask
LIBRARY = "a.library"
FAULTS = ("raise", "exit", "memory", "die", "hang")

_SITE = """
import importlib.abc, importlib.machinery, importlib.util, sys

PLANTED = ("pipeline.steps.read", "pipeline.steps.prepare", "pipeline.steps.finish",
    "pipeline.execution.operators", "pipeline.stages.build", "jobs.edit.metrics",
    "pipeline.storage.store", "pipeline.models.device")


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":  # webdataset does without, and starts in a tenth of the time
            raise ModuleNotFoundError(name)
        if name not in PLANTED:
            return None
        if name in ("pipeline.stages.build", "pipeline.models.device"):  # these load torch
            return importlib.util.spec_from_loader(name, Replaced())
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            from tests.jobs.faulty import plant
            plant(module)
        spec.loader.exec_module = exec_module
        return spec


class Replaced(importlib.abc.Loader):
    def exec_module(self, module):
        from tests.jobs.faulty import plant
        plant(module)


sys.meta_path.insert(0, Finder())
"""


def install(folder: Path, *, faults: bool = True) -> dict[str, str]:
    """Writes the patch below ``folder``; returns the environment to run with."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE)
    inherited = os.environ.get("PYTHONPATH")
    paths = [str(folder), str(ROOT), *([inherited] if inherited else [])]
    return {"PYTHONPATH": os.pathsep.join(paths), FOLDER: str(folder) if faults else ""}


def meet(key: str, step: str) -> None:
    """What a sample of this key meets in this step; most of them nothing."""
    folder = os.environ.get(FOLDER)
    fault, _, where = key.partition("-")
    if not folder or where != step or fault not in FAULTS:
        return
    if fault == "raise":
        raise RuntimeError("planted")
    if fault == "exit":
        sys.exit(3)
    if fault == "memory":
        raise MemoryError("planted")
    if fault == "hang":
        ctypes.CDLL(None).sleep(1000)  # in native code, where no exception can reach
    before = Path(folder, key)
    died_before = before.exists()
    before.touch()
    os.kill(os.getpid(), signal.SIGSEGV if died_before else signal.SIGKILL)


def plant(module: ModuleType) -> None:
    """Puts the faults of its step into a module that was just loaded."""
    names: dict[str, tuple[str, str, Callable[..., str]]] = {
        "pipeline.steps.read": ("to_sample", "read", lambda sample, *rest: sample.key),
        "pipeline.steps.prepare": ("_prepare", "prepare", lambda sample, *rest, **more: sample.key),
        "pipeline.steps.finish": ("_write_members", "finish", lambda sample, *rest: sample.key),
        "pipeline.execution.operators": ("write_part", "write", _key_of_computed),
    }
    if module.__name__ == "pipeline.stages.build":
        stages = {"mask": _mask, "encode": _encode, "decode": _decode}
        module.StageStep = Callable  # type: ignore[attr-defined]
        module.load_stages = lambda config, pool, device: {  # type: ignore[attr-defined]
            name: _load(name, partial(_stage, name, stages[name]))
            for name in config.stages_by_pool("fused" if pool == "fused" else "pools")[pool]
        }
        return
    if module.__name__ == "pipeline.storage.store":
        module.Store.hook = staticmethod(on_storage_call)
        return
    if module.__name__ == "pipeline.models.device":
        module.device_fault = lambda device: None  # type: ignore[attr-defined]
        return
    if module.__name__ == "jobs.edit.metrics":
        module.tell_gpu_memory = lambda stage: None  # type: ignore[attr-defined]
        return
    name, step, key_of = names[module.__name__]
    call = getattr(module, name)

    def faulty(*arguments: Any, **options: Any) -> Any:
        meet(key_of(*arguments, **options), step)
        return call(*arguments, **options)

    setattr(module, name, faulty)


def _load(name: str, stage: Any) -> Any:
    """The stage; that of mask may fail to load: LOADS is a fault, how often, and a folder."""
    fault, times, folder = (os.environ.get(LOADS) or "none 0 .").split(" ")
    tries = list(Path(folder).glob("load-*"))
    if name == "mask" and len(tries) < int(times):
        Path(folder, f"load-{len(tries)}").touch()
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("CUDA error: no device\nCompile with ...")
    return stage


def _key_of_computed(store: object, part: Part, *rest: str) -> str:
    """Of a part that was computed: one that is staged as failed meets no fault."""
    lost = all(edit.status == Status.FAILED for edit in part.edits)
    return "" if lost else part.samples[0].key


def _take_time(stage: str) -> None:
    """Notes the stage and the raylet above it in the folder PACE; sleeps as a file there says.

    The parent of a worker is the raylet of its node.
    """
    if folder := os.environ.get(PACE):
        Path(folder, f"{stage}-{os.getppid()}").touch()
        if (seconds := Path(folder, f"seconds-{stage}")).exists():
            time.sleep(float(seconds.read_text()))


def _stage(name: str, step: Callable[[Sample], None], part: Part) -> Part:
    part.device = "cpu"
    _take_time(name)
    for sample in part.samples:
        if sample.pending:
            meet(sample.key, name)
            step(sample)
    return part


def _mask(sample: Sample) -> None:
    if os.environ.get(WARNS):
        logging.getLogger(LIBRARY).warning("a mask of arithmetic")
    sample.latent = np.full((4, 4, 4), len(sample.key), np.float32)
    for edit in sample.pending:
        edit.mask = np.zeros((4, 4), np.float32)
        edit.mask[1:3, 1:4] = 1.0


def _encode(sample: Sample) -> None:
    sample.trajectory = np.stack([sample.latent, sample.latent])  # type: ignore[list-item]
    sample.pending[0].num_evals_encode = 1


def _decode(sample: Sample) -> None:
    assert sample.image is not None
    assert sample.trajectory is not None
    for edit in sample.pending:
        edit.image = 255 - sample.image // int(sample.trajectory[1, 0, 0, 0])
    sample.latent = sample.trajectory = None
