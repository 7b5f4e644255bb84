"""Packing from object storage runs as tasks on Ray, and writes the bytes of the plain loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.commands.pack_on_ray import wants_ray
from pipeline.config.load import ConfigError
from pipeline.config.pack import Packing
from pipeline.storage.store import Store
from tests.samples import encode, pixels
from tests.stores.conftest import S3Server

ROOT = Path(__file__).resolve().parents[2]


def packing(source: str, **run: str) -> Packing:
    places = {"source": {"paths": [source]}, "output": {"path": "out"}}
    return Packing.model_validate(places | {"run": run})


def test_ray_is_for_object_storage() -> None:
    """Unless it is asked for, or refused; one process's memory is no place for it."""
    assert wants_ray(packing("s3://bucket/photos"))
    assert not wants_ray(packing("photos"))
    assert wants_ray(packing("photos", on_ray="always"))
    assert not wants_ray(packing("s3://bucket/photos", on_ray="never"))
    assert not wants_ray(packing("memory://photos"))
    with pytest.raises(ConfigError, match=r"run\.on_ray=always: memory:// is the memory of one"):
        wants_ray(packing("memory://photos", on_ray="always"))


@pytest.mark.slow
def test_a_bucket_is_packed_on_ray(bucket: str, credentials: S3Server, tmp_path: Path) -> None:
    """Every object equals that of the plain loop; a damaged image is left out in both."""
    photos = Store(f"{bucket}/photos", credentials.storage_options)
    rows = ["file_name,text"]
    for number in range(10):
        name = f"{number}.png"
        data = encode(pixels(number, 24, 32)) if number != 4 else b"no image"
        photos.put(name, data)
        rows.append(f"{name},a dog {number}")
    photos.put("captions.csv", "\n".join(rows).encode())
    endpoint = f"source.storage_options={{endpoint_url: '{credentials.endpoint_url}'}}"
    for name, on_ray in (("ray", "auto"), ("plain", "never")):
        command = [sys.executable, "-m", "jobs.cli", "pack", str(tmp_path / name), photos.url]
        command += [endpoint, f"run.on_ray={on_ray}", "run.num_cpus=2"]
        command += ["pack.samples_per_shard=3", "pack.max_left_out_share=0.2"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout
        assert "left out: 1: files that are no image, e.g. '4.png'" in done.stdout, done.stdout
        assert "9 samples packed in 4 shards" in done.stdout
    files = {
        name: {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("ray", "plain")
    }
    assert files["ray"] == files["plain"]
    assert len(files["ray"]) == 4 + 4 + 2
