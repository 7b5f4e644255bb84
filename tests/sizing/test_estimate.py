"""The estimate of a run: sizes, layout, rate, hours, money, and warnings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.config.config import Config
from pipeline.config.load import parse_config
from pipeline.sizing.costs import Costs, counted_costs, evaluations
from pipeline.sizing.estimate import Estimate, estimate, is_sized, sized
from pipeline.sizing.pools import Node, PoolsDoNotFitError
from pipeline.sizing.warnings import plan_warnings

# SD 1.5 on a GPU: seconds per edit; decoding uses 40 GB at 32 rows.
GPU = Costs(
    source="calibration",
    seconds={"mask": 0.14, "encode": 0.29, "decode": 0.57, "prepare": 0.01, "finish": 0.03},
    edits=32,
    edits_per_byte=1e-6,
    load_s=20.0,
    device_bytes=80_000_000_000,
    weights_bytes=4_000_000_000,
    peak_bytes={"mask": 20_000_000_000, "encode": 12_000_000_000, "decode": 40_000_000_000},
    rows={"mask": 32, "encode": 32, "decode": 32},
    edit_bytes={"prepare": 1e6, "mask": 1.1e6, "encode": 2.5e6, "decode": 1e6},
)
CPU = Costs("calibration", {"mask": 0.1, "encode": 0.2, "decode": 0.4, "finish": 0.1}, 8)
EIGHT = [Node(64, 8, 1e12, 100e9)]
AUTO: dict[str, Any] = {name: {"actors": "auto"} for name in ("mask", "encode", "decode")}
ONE: dict[str, Any] = {name: {"actors": 1} for name in AUTO}


def config(stages: dict[str, Any] | None = None, **sections: Any) -> Config:
    tree = {"input": {"shards": "in/*.tar"}, "output": {"path": "out"}}
    sections = {"run": {"layout": "pools"}} | sections
    return parse_config(tree | {"stages": AUTO if stages is None else stages} | sections)


def warned(config: Config, device: str, costs: Costs, nodes: list[Node], shards: int = 1) -> str:
    expected = estimate(config, device, costs, nodes, 1000)
    chosen = sized(config, expected)
    return "\n".join(plan_warnings(expected, chosen, device, costs, nodes, shards))


def test_pools_of_auto_size_share_the_gpus_by_cost() -> None:
    """Eight GPUs are split 1 : 3 : 4; the decode pool, at 4 / 0.57 images/s, is the slowest."""
    expected = estimate(config(), "cuda", GPU, EIGHT, 10_000)
    assert (expected.layout, expected.sizes) == ("pools", {"mask": 1, "encode": 3, "decode": 4})
    assert expected.images_per_s == pytest.approx(4 / 0.57)
    assert expected.busy["decode"] == pytest.approx(1.0)
    assert expected.busy["mask"] == pytest.approx(0.14 * 4 / 0.57)
    chosen = sized(config(), expected)
    assert is_sized(chosen)
    assert chosen.stages.decode.actors == 4


def test_layout_auto_takes_the_faster_layout() -> None:
    """Fused loses nothing to rounding: eight GPUs give eight images/s. A set layout is kept."""
    free = estimate(config(run={"layout": "auto"}), "cuda", GPU, EIGHT, 10_000)
    assert (free.layout, free.sizes) == ("fused", {"fused": 8})
    assert free.images_per_s == pytest.approx(8.0)
    assert free.other_images_per_s == pytest.approx(4 / 0.57)
    assert "run.layout=fused" in warned(config(), "cuda", GPU, EIGHT)


def test_layout_auto_takes_the_one_that_loads_fewer_models() -> None:
    """Two cores bound both layouts alike; two actors start before the three that pools need."""
    two = [Node(2, 0, 1e11, 1e11)]
    pools = estimate(config(), "cpu", CPU, two, 100)
    free = estimate(config(run={"layout": "auto"}), "cpu", CPU, two, 100)
    assert pools.images_per_s == free.images_per_s == pytest.approx(2 / 0.8)
    assert sum(pools.sizes.values()) == 3
    assert (free.layout, free.sizes) == ("fused", {"fused": 2})


def test_layout_auto_is_fused_on_one_gpu() -> None:
    """Three actors with a whole GPU each do not fit; run.layout=pools is an error then."""
    one = [Node(8, 1, 1e11, 1e11)]
    free = estimate(config(run={"layout": "auto"}), "cuda", GPU, one, 100)
    assert (free.layout, free.sizes) == ("fused", {"fused": 1})
    with pytest.raises(PoolsDoNotFitError, match="layout=pools"):
        estimate(config(), "cuda", GPU, one, 100)


def test_cpus_bound_the_rate() -> None:
    """Cores divided by 0.8 s of work per edit bound the rate, however many actors there are."""
    many = {name: {"actors": 2} for name in ("mask", "encode", "decode")}
    for stages in (None, many):
        expected = estimate(config(stages), "cpu", CPU, [Node(2.5)], 100)
        assert expected.images_per_s == pytest.approx(2.5 / 0.8)
    assert estimate(config(), "cpu", CPU, [Node(2.5)], 100).sizes == {
        "mask": 1,
        "encode": 1,
        "decode": 2,
    }


def test_hours_and_money_count_all_gpus_of_the_cluster() -> None:
    """Loading, the first part, then edits at the rate; idle GPUs are paid for as well."""
    expected = estimate(
        config(report={"price_per_device_hour": 2.5}), "cuda", GPU, EIGHT, 1_000_000
    )
    wall_s = 20 + 64 * (0.14 + 0.29) + 1_000_000 * 0.57 / 4
    assert expected.wall_s == pytest.approx(wall_s)
    assert expected.device_hours == pytest.approx(8 * wall_s / 3600)
    assert expected.money == pytest.approx(8 * wall_s / 3600 * 2.5)


def test_without_measurements_sizes_come_from_network_evaluations() -> None:
    """The paper's settings take 20, 40 and 80 evaluations; rate and time stay unknown."""
    assert evaluations(config().method) == {"mask": 20, "encode": 40, "decode": 80}
    expected = estimate(config(), "cuda", counted_costs(config()), EIGHT, 100)
    assert expected.sizes == {"mask": 1, "encode": 2, "decode": 4}
    assert expected.images_per_s is expected.wall_s is None


def test_the_largest_micro_batch_that_fits_is_recommended() -> None:
    """Decoding took 36 GB next to the weights for 32 rows, so 60 GB have room for 53."""
    expected = estimate(config(), "cuda", GPU, EIGHT, 100)
    assert expected.micro_batch == {"mask": 64, "encode": 128, "decode": 32}
    half = {name: {"actors": 1, "gpus": 0.5, "micro_batch": 32} for name in AUTO}
    assert "stages.decode.micro_batch=32 will probably not fit into GPU memory; 16" in warned(
        config(half), "cuda", GPU, EIGHT
    )


@pytest.mark.parametrize(
    ("part_size", "silence_s"), [(1, 600.0), (200, 10 * 200 * 0.57), (100_000, 3600.0)]
)
def test_a_worker_counts_as_hung_after_ten_times_the_time_of_a_part(
    part_size: int, silence_s: float
) -> None:
    """The limit is at least ten minutes and at most one hour; without measurements one hour."""
    run = {"part_size": part_size}
    assert estimate(config(run=run), "cuda", GPU, EIGHT, 1).silence_s == pytest.approx(silence_s)
    counted = counted_costs(config(run=run))
    assert estimate(config(run=run), "cuda", counted, EIGHT, 1).silence_s == 3600.0


@pytest.mark.parametrize(
    ("stages", "run", "costs", "nodes", "shards", "words"),
    [
        (ONE, {}, GPU, EIGHT, 1, "5 GPUs of the cluster have no actor"),
        (None, {}, GPU, [replace(EIGHT[0], object_store_bytes=1e9)], 1, "parts in flight may take"),
        (None, {"part_timeout_s": 30}, GPU, EIGHT, 1, "part_timeout_s=30: the slowest stage takes"),
        (None, {"shards_per_wave": 2}, GPU, EIGHT, 100, "a wave of run.shards_per_wave=2 shards"),
    ],
)
def test_plan_warnings_name_settings_that_waste_time(
    stages: Any, run: Any, costs: Costs, nodes: list[Node], shards: int, words: str
) -> None:
    """Idle GPUs, a small object store, a time limit that kills healthy workers, short waves."""
    said = warned(config(stages, run=run), "cuda", costs, nodes, shards)
    assert words in said
    assert words not in warned(config(run={"part_size": 32}), "cuda", GPU, EIGHT)


def test_the_memory_of_all_actors_is_added_up() -> None:
    """Four actors with 2 GB each do not fit a machine with 6 GB."""
    costs = replace(CPU, peak_bytes={"decode": 2_000_000_000})
    assert "4 actors with 2.0 GB each" in warned(config(), "cpu", costs, [Node(2.5, 0, 6e9)])
    assert "actors with" not in warned(config(), "cpu", costs, [Node(2.5, 0, 9e9)])


def test_the_summary_compares_the_estimate_with_the_actual_rate() -> None:
    """The ratio is None if either rate is not known."""
    expected = Estimate("fused", {"fused": 1}, {"fused": 1.0}, images_per_s=4.0)
    assert expected.compared_with(3.0).ratio == pytest.approx(0.75)
    assert expected.compared_with(None).ratio is None
    assert replace(expected, images_per_s=None).compared_with(3.0).ratio is None


def test_threads_without_reserved_cores_have_a_warning() -> None:
    """Three actors with four threads on four CPUs slow each other down."""
    fixed = ONE | {"mask": {"actors": 1, "threads": 4}}
    assert "3 actors with 4 threads each need more than the 4 CPUs" in warned(
        config(fixed), "cpu", CPU, [Node(4)]
    )
    assert "threads" not in warned(config(fixed), "cpu", CPU, [Node(12)])
    assert "threads" not in warned(config({}), "cpu", CPU, [Node(2)])
    owned = {name: {"cpus": 4, "actors": "auto"} for name in ("mask", "encode", "decode")}
    assert "threads" not in warned(config(owned), "cpu", CPU, [Node(13)])


@pytest.mark.parametrize("layout", ["pools", "fused"])
def test_threads_of_all_actors_fit_the_machine(layout: str) -> None:
    """For pools of auto size, actors times threads are at most the number of CPUs."""
    owned = {name: {"cpus": 2, "actors": "auto"} for name in ("mask", "encode", "decode")}
    tree = config(owned, run={"layout": layout})
    expected = estimate(tree, "cpu", CPU, [Node(16)], 1000)
    assert tree.threads == 2
    assert sum(expected.sizes.values()) * tree.threads <= 16
