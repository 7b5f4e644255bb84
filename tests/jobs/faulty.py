"""Faults for whole runs: patches a stage in every process that imports it, by the sample's key.

A run is started with the folder that ``install`` makes at the head of PYTHONPATH; a sample whose
key is ``<fault>-<stage>`` then meets that fault when the stage takes its part.
"""

from __future__ import annotations

import os
from pathlib import Path

FAULTS = ("raise", "exit", "kill", "segv", "nan")

_SITE = """
import importlib.abc, importlib.machinery, os, signal, sys

STAGES = {"pipeline.steps.mask": ("mask", "MaskStage"), "pipeline.steps.encode": ("encode",
    "EncodeStage"), "pipeline.steps.decode": ("decode", "DecodeStage")}


def patched(stage, call):
    def faulty(self, part):
        for picture in part.pictures:
            fault = picture.key.removesuffix("-" + stage)
            if not picture.pending:
                continue
            if fault == "raise":
                raise RuntimeError("planted")
            if fault == "exit":
                sys.exit(3)
            if fault in ("kill", "segv"):
                os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGSEGV)
            if fault == "nan":
                for name in ("latent", "trajectory"):
                    if getattr(picture, name) is not None:
                        getattr(picture, name)[...] = float("nan")
        return call(self, part)
    return faulty


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in STAGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            stage, kind = STAGES[name]
            cls = getattr(module, kind)
            cls.__call__ = patched(stage, cls.__call__)
        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""


def install(folder: Path) -> dict[str, str]:
    """Writes the patch below ``folder``; returns the environment to run with."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE)
    inherited = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *([inherited] if inherited else [])])}
