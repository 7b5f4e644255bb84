"""Edits shards with Ray Data and diffusers: what one would write without Overpaint.

    python -m infra.benchmarks.peer_script --method sdedit --shards in --out out

Readers, a pool of actors with a diffusers pipeline each, writers; batches, dtype, threads and
``torch.compile`` as one would set them. It resumes, checks, counts and records nothing.
``infra/benchmarks/peers.py`` runs it beside ``overpaint edit``.
"""

from __future__ import annotations

import argparse
import glob
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import ray
from PIL import Image
from ray.data import ActorPoolStrategy

Row = dict[str, Any]
CPUS = 0.25  # a task or an actor reserves, so that readers and writers run beside the actors
EDITORS = {
    "sdedit": "infra.benchmarks.peer_editors.SdEditor",
    "diffedit": "infra.benchmarks.peer_editors.DiffEditor",
    "imagic": "infra.benchmarks.peer_editors.ImagicEditor",
}


def main() -> None:
    """Edits every shard; prints when each batch was edited, as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", choices=EDITORS, required=True)
    parser.add_argument("--shards", required=True, help="a folder of tars")
    parser.add_argument("--out", required=True)
    parser.add_argument("--settings", type=json.loads, required=True, help="JSON; see Settings")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cpus", type=int, help="of the local Ray; default: the machine's")
    arguments = parser.parse_args()
    times = run(**vars(arguments))
    print(json.dumps({"batches": times}), flush=True)


def run(
    method: str,
    shards: str,
    out: str,
    settings: dict[str, Any],
    actors: int,
    batch: int,
    cpus: int | None,
) -> list[tuple[float, int]]:
    """The script: read, edit, write. Returns time.time() and size of every batch, in order."""
    Path(out).mkdir(parents=True, exist_ok=True)
    # without an address Ray would join one that another user runs on this machine
    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    written = (
        ray.data.read_webdataset(sorted(glob.glob(f"{shards}/*.tar")), num_cpus=CPUS)
        .flat_map(edits_of, num_cpus=CPUS)
        .repartition(target_num_rows_per_block=batch)
        .map_batches(
            editor_class(method),
            fn_constructor_kwargs=settings,
            batch_size=batch,
            compute=ActorPoolStrategy(size=actors),
            num_cpus=CPUS,
            num_gpus=1 if settings.get("device") == "cuda" else 0,
        )
        .map_batches(partial(write, out=out), batch_size=None, num_cpus=CPUS)
        .take_all()
    )
    return sorted((row["at"], row["edits"]) for row in written)


def editor_class(method: str) -> Any:
    """The class of a method's editor; torch is imported only now."""
    import importlib

    module, _, name = EDITORS[method].rpartition(".")
    return getattr(importlib.import_module(module), name)


def edits_of(sample: Row) -> list[Row]:
    """A row for each edit text of a sample."""
    return [
        {
            "key": f"{sample['__key__']}_{index}",
            "image": sample["jpg"],
            "caption": sample["txt"],
            "text": text,
        }
        for index, text in enumerate(sample["edit.txt"].split("\n"))
    ]


def write(batch: Row, out: str) -> Row:
    """Writes a batch as one shard."""
    import webdataset

    name = f"{batch['key'][0]}.tar"
    with webdataset.TarWriter(f"{out}/{name}") as tar:
        for key, pixels, text in zip(batch["key"], batch["edited"], batch["text"], strict=True):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=95)
            tar.write({"__key__": key, "jpg": file.getvalue(), "txt": text})
    return {"at": [batch["at"][0]], "edits": [len(batch["key"])]}


if __name__ == "__main__":
    main()
