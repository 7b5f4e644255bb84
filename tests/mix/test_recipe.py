"""The recipe of jobs/README.md for mixing while loading works as written."""

from __future__ import annotations

import multiprocessing
import re
from itertools import islice
from pathlib import Path

import pytest
import torch

from pipeline.storage.store import Store
from tests.committing import make_config, run
from tests.samples import raw_sample, write_shard

PAGE = Path(__file__).resolve().parents[2] / "jobs/README.md"


@pytest.mark.slow
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(),
    reason="functions defined by exec cannot be pickled",
)
def test_recipe_mixes_originals_and_edits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader gives batches of images and texts in which a third are edits."""
    for shard in range(2):
        samples = [raw_sample(f"{shard}-{n}", seed=n) for n in range(4)]
        write_shard(tmp_path / f"in/{shard:05d}.tar", samples)
    run(make_config(f"{tmp_path}/in/*.tar", model={"resize": "stretch"}), Store(f"{tmp_path}/out"))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    recipe = next(block for block in blocks if "RandomMix" in block)
    # these images have 48 x 64 pixels before the edit and 32 x 32 after it
    resized = "return torch.nn.functional.interpolate(image[None], (16, 16))[0]"
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(recipe.replace("return image\n", f"{resized}\n"), names)
    torch.manual_seed(0)
    texts: list[str] = []
    for images, batch_texts in islice(names["loader"], 30):
        assert images.shape == (16, 3, 16, 16)
        texts += batch_texts
    assert set(texts) == {"a dog", "a cat"}
    assert 0.27 < texts.count("a cat") / len(texts) < 0.4
