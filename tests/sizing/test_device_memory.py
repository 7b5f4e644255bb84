"""What actors need of their device, and the largest sizes that fit, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.config.config import Config
from pipeline.models.memory_facts import CallMemory, CountedMemory
from pipeline.sizing.device_memory import PROCESS_BYTES, ActorMemory, actors_memory
from pipeline.sizing.estimate import Estimate
from pipeline.sizing.pools import Node

GB, MB = 10**9, 10**6
# About Stable Diffusion 3 in half precision: T5 is more than twice the network.
SD3 = CountedMemory(
    network=4 * GB,
    texts=11 * GB,
    encoder=70 * MB,
    decoder=100 * MB,
    condition=5 * MB,
    of_network=CallMemory(row=200 * MB, fixed=100 * MB),
    of_texts=CallMemory(row=50 * MB, fixed=150 * MB),
    of_encoder=CallMemory(row=1000 * MB),
    of_decoder=CallMemory(row=2000 * MB),
)
CELLS = 16 * 128 * 128  # 1 MiB in float32


def configured(**tree: Any) -> Config:
    fixed = {
        "input": {"shards": "in"},
        "output": {"path": "out"},
        "run": {"part_size": 8, "layout": "pools"},
        "stages": {name: {"micro_batch": 4, "actors": 1} for name in ("mask", "encode", "decode")},
    }
    return Config.model_validate(fixed | tree)


def found(
    config: Config, device: str = "cuda", node: Node | None = None, **options: Any
) -> dict[str, ActorMemory]:
    sizes = dict.fromkeys(config.pools, 1)
    expected = Estimate(config.run.layout, sizes, {}, memory_bytes=dict.fromkeys(sizes, 80 * MB))
    expected = replace(expected, device_bytes=options.pop("measured", 0))
    nodes = [node or Node(8, 1)]
    counted = replace(SD3, of_fit=options.pop("fit", None))
    actors = actors_memory(config, device, expected, nodes, counted, CELLS, **options)
    return {actor.pool: actor for actor in actors}


def test_an_actor_that_encodes_has_no_text_encoders_once_it_is_loaded() -> None:
    """They make its peak while it loads, alone; others hold them beside the network."""
    actors = found(configured())
    assert actors["encode"].weights == 4 * GB + 5 * MB
    assert actors["encode"].loading == 11 * GB + 200 * MB
    assert actors["mask"].weights == 15 * GB + 70 * MB
    assert actors["decode"].weights == 15 * GB + 100 * MB
    assert actors["decode"].loading == 15 * GB + 170 * MB  # the VAE's other half goes then
    lora = configured(model={"lora": [{"path": "a"}]})
    assert found(lora)["encode"].loading == 15 * GB + 200 * MB
    fused = found(configured(run={"part_size": 8, "layout": "fused"}))
    assert fused["fused"].weights == 15 * GB + 170 * MB


def test_the_largest_sizes_of_a_named_memory_fit_and_twice_as_many_do_not() -> None:
    """20 GB that an actor may use of 25: 5.5 GB are left beside the weights for masks."""
    most = {"mask": 2 * 8 * 10, "encode": 8, "decode": 2 * 8}  # rows of a part
    for name, actor in found(configured(), device_bytes=25 * GB).items():
        stage = actor.stages[name]
        assert actor.usable == 20 * GB
        room = actor.usable - actor.weights - stage.part
        for size, fixed, row, in_part in (
            # of texts, whose encoders are called too, what does not grow with rows is larger
            (stage.micro_batch, 100 * MB if name == "encode" else 150 * MB, 205 * MB, most[name]),
            (stage.vae_micro_batch, 0, stage.image or 1, 8),
        ):
            if size is None:
                assert (name, stage.image) == ("encode", None)
                continue
            assert fixed + size * row <= room
            assert size <= in_part
            assert size == in_part or fixed + 2 * size * row > room
    decode = found(configured(), device_bytes=25 * GB)["decode"].stages["decode"]
    assert (decode.micro_batch, decode.vae_micro_batch) == (16, 2)
    # weights, part, and four images, which take more than four rows
    assert decode.needed == 15 * GB + 100 * MB + decode.part + 4 * 2000 * MB
    one = configured(model={"vae_micro_batch": 1})
    needed = found(one, device_bytes=25 * GB)["decode"].stages["decode"].needed
    assert needed == 15 * GB + 100 * MB + decode.part + 2000 * MB


def test_a_gpus_memory_is_that_of_the_calibration_unless_it_is_named() -> None:
    """Without either the sizes that fit are not known; two actors share a GPU."""
    assert found(configured())["decode"].usable is None
    assert found(configured())["decode"].stages["decode"].micro_batch is None
    assert found(configured(), measured=80 * GB)["decode"].usable == 64 * GB
    halves = {name: {"micro_batch": 4, "gpus": 0.5} for name in ("mask", "encode", "decode")}
    shared = found(configured(stages=halves), measured=80 * GB, device_bytes=50 * GB)
    assert shared["decode"].usable == 20 * GB


def test_what_fits_nowhere_is_zero() -> None:
    """The weights alone are larger than the device."""
    stage = found(configured(), device_bytes=8 * GB)["decode"].stages["decode"]
    assert (stage.micro_batch, stage.vae_micro_batch) == (0, 0)


def test_on_a_cpu_actors_share_their_node_with_their_parts() -> None:
    """Three pools of one actor on 90 GB: 24 GB each, less the process and two parts."""
    actors = found(configured(), "cpu", Node(8, memory_bytes=90 * GB))
    assert actors["decode"].usable == 24 * GB - PROCESS_BYTES - 80 * MB
    assert actors["decode"].parts == 80 * MB
    # twice the size is twice the bytes: what is left beside the weights holds so many edits
    free = 24 * GB - PROCESS_BYTES - actors["decode"].weights
    assert actors["decode"].part_size == free * 8 // (80 * MB)
    assert found(configured(), "cpu")["decode"].usable is None


@pytest.mark.parametrize(("device", "node"), [("cuda", None), ("cpu", Node(8, memory_bytes=GB))])
def test_a_fit_of_factors_takes_its_draws_for_each_edit(device: str, node: Node | None) -> None:
    """Two edits of two draws in four rows; on a CPU the heap keeps as much again."""
    config = configured(method={"name": "imagic"})
    fit = CallMemory(row=600 * MB, fixed=100 * MB)
    actor = found(config, device, node, fit=fit, device_bytes=25 * GB)["encode"]
    stage, heap = actor.stages["encode"], 2 if device == "cpu" else 1
    assert stage.row == 300 * MB
    assert stage.needed == actor.weights + heap * 1300 * MB
    assert stage.micro_batch == {"cuda": 2 * 8, "cpu": 2 * 2}[device]  # 4.9 GB and 4.3 GB are left


@pytest.mark.parametrize(("device", "beside"), [("cuda", 16 * GB), ("cpu", 13 * GB + 4 * GB)])
def test_a_fit_of_all_weights_takes_one_edit(device: str, beside: int) -> None:
    """On a GPU a step takes four times the weights, on a CPU the copy to restore lies there too."""
    config = configured(method={"name": "imagic", "imagic": {"form": "full"}})
    for memory, fits in ((30 * GB, 0), (60 * GB, 1)):
        fit = CallMemory(row=13 * GB)
        actor = found(config, device, Node(8), fit=fit, device_bytes=memory)["encode"]
        assert actor.stages["encode"].needed == actor.weights + beside
        assert actor.stages["encode"].micro_batch == fits


def test_stages_without_a_network_have_no_rows() -> None:
    """SDEdit's mask calls the VAE only; a fit that is not counted is left out."""
    sdedit = found(configured(method={"name": "sdedit"}), device_bytes=80 * GB)["decode"]
    assert sdedit.stages["mask"].row is None
    assert sdedit.stages["mask"].micro_batch is None
    assert sdedit.stages["mask"].vae_micro_batch == 8
    imagic = found(configured(method={"name": "imagic"}), device_bytes=80 * GB)
    assert "encode" not in imagic["encode"].stages


@pytest.mark.parametrize(
    ("room", "most", "size"), [(99, 8, 0), (100, 8, 1), (299, 8, 4), (300, 5, 5), (10**6, 5, 5)]
)
def test_the_largest_call(room: int, most: int, size: int) -> None:
    """A power of two, or as many rows as there are."""
    assert CallMemory(row=50, fixed=50).largest(room, most) == size
