"""An edited output whose originals have boxes, and its mixes in each format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.mix import Mix, MixOutput
from pipeline.mix.mix import run_mix
from pipeline.mix.plan import make_mix_plan
from pipeline.mix.verify import verify_mix
from pipeline.plan.run_folder import CONFIG_FILE, resolved_yaml
from pipeline.storage.store import Store
from tests.committing import make_config, run
from tests.mix.test_mix import settings
from tests.samples import raw_sample, write_shard

NAMES = ["dog", "cat"]
WIDTH, HEIGHT = 64, 48  # of an original
FORMATS = ("imagefolder", "coco", "yolo", "parquet", "pairs")


def boxes(*found: list[float], names: list[str] = NAMES) -> dict[str, Any]:
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "annotations": [
            {"bbox": box, "category_id": number % 2} for number, box in enumerate(found)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }


def make_boxed(folder: Path, *, shards: int = 2, images: int = 3) -> None:
    """Originals with boxes, and in each shard one without; edits that are 32 x 32."""
    for shard in range(shards):
        samples = [
            raw_sample(
                f"d/k{shard}.{number}",
                ["a cat", "a fox"],
                seed=100 * shard + number,
                boxes__json=boxes([8, 0, 24, 24], [40, 20, 10, 10]),
                cls="5",
            )
            for number in range(images)
        ]
        samples.append(raw_sample("plain", ["a cat"], seed=900 + shard))
        write_shard(folder / f"in/{shard:02d}.tar", samples)
    config = make_config(f"{folder}/in/*.tar", input={"key_split": "suffix"})
    store = Store(str(folder / "out"))
    run(config, store)
    store.put(CONFIG_FILE, resolved_yaml(config).encode())


def tree_of(form: str) -> dict[str, Any]:
    """One split, with all edits."""
    return {"format": form, "splits": {"train": 1.0}} | ({} if form == "pairs" else {"ratio": 10})


def mix_of(folder: Path, output: Path, **changes: Any) -> Mix:
    found = settings(folder, **(tree_of(changes["format"]) | changes))
    return found.model_copy(update={"output": MixOutput(path=str(output))})


def mixed(folder: Path, form: str, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = run_mix(
        make_mix_plan(settings(folder, form, **(tree_of(form) | changes)))
    )
    report = verify_mix(Store(str(folder / form)))
    assert report.problems == []
    return found


def datasets_of(folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Any:
    """What ``load_dataset`` makes of a folder, without network."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    return datasets.load_dataset(str(folder), cache_dir=str(cache))
