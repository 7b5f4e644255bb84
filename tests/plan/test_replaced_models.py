"""A model that is not what it was ends a resumed run by name: never two models in one output."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.plan.plan import make_plan
from pipeline.plan.run_folder import write_run_folder
from tests.samples import raw_sample, write_shard
from tests.tiny_models import make_tiny_sdxl


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sdxl(tmp_path_factory.mktemp("xl") / "model")


def _swap(first: str, second: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.move(folder / first, folder / "kept")
        shutil.move(folder / second, folder / first)
        shutil.move(folder / "kept", folder / second)

    return change


def _set(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tree = json.loads((folder / name).read_text())
        assert tree | values != tree
        (folder / name).write_text(json.dumps(tree | values))

    return change


def _same_times(folder: Path) -> None:
    """Other weights of the same size, with the times of the file that they replace."""
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    before = path.stat()
    tensors = {name: tensor.flip(0).contiguous() for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def _other_words(folder: Path) -> None:
    path = folder / "tokenizer_2/tokenizer.json"
    tree = json.loads(path.read_text())
    vocabulary = tree["model"]["vocab"]
    cat, dog = vocabulary["cat</w>"], vocabulary["dog</w>"]
    vocabulary |= {"cat</w>": dog, "dog</w>": cat}
    path.write_text(json.dumps(tree))


CHANGES: dict[str, Callable[[Path], None]] = {
    "the same size and times": _same_times,
    "text encoders swapped": _swap("text_encoder", "text_encoder_2"),
    "tokenizers swapped": _swap("tokenizer", "tokenizer_2"),
    "words swapped": _other_words,
    "the VAE's scale": _set("vae/config.json", scaling_factor=0.13025),
    "what is predicted": _set("scheduler/scheduler_config.json", prediction_type="v_prediction"),
    "the schedule": _set("scheduler/scheduler_config.json", beta_end=0.02),
    "the empty text": _set("model_index.json", force_zeros_for_empty_prompt=False),
    "heads of attention": _set("unet/config.json", attention_head_dim=4),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_model_does_not_resume_an_output(xl: Path, tmp_path: Path, case: str) -> None:
    folder = Path(shutil.copytree(xl, tmp_path / "model"))
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    config = Config.model_validate(
        {
            "input": {"shards": f"{tmp_path}/in/*.tar"},
            "output": {"path": f"{tmp_path}/out"},
            "model": {"path": str(folder), "size": 32},
        }
    )
    write_run_folder(make_plan(config, "cpu"))
    make_plan(config, "cpu")
    CHANGES[case](folder)
    with pytest.raises(ConfigError, match=r"holds another run's output(.|\n)*model"):
        make_plan(config, "cpu")
