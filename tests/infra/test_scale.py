"""The figures of the scaling benchmark, checked by hand."""

from __future__ import annotations

import pytest

from infra.benchmarks.scale import IMAGE_S, PART_SIZE, SHARES, sized_by_cost, steady_state


def test_utilization_is_measured_while_all_pools_work() -> None:
    """Decode starts at 2 and 4, has a gap of 1 in each actor, and its last part comes at 8."""
    spans = {
        "mask": {"1": [(0.0, 1.0), (1.0, 3.0), (3.0, 5.0)]},
        "encode": {"2": [(1.0, 4.0), (4.0, 8.0)]},
        "decode": {"3": [(2.0, 5.0), (6.0, 9.0)], "4": [(4.0, 7.0), (8.0, 11.0)]},
    }
    part_s = {name: share * IMAGE_S * PART_SIZE for name, share in SHARES.items()}
    found = steady_state(spans, {"mask": 1, "encode": 2, "decode": 2}, part_s)
    assert (found["slowest"], found["measured_s"], found["start_up_s"]) == ("decode", 4.0, 4.0)
    assert found["utilisation"] == {"mask": 0.25, "encode": 0.5, "decode": 0.75}
    assert found["median_gap_s"] == {"mask": 0.0, "encode": 0.0, "decode": 1.0}


@pytest.mark.parametrize("gpus", [8, 32, 64])
def test_pools_use_all_gpus(gpus: int) -> None:
    """For these numbers of GPUs the best sizes leave no GPU unused."""
    assert sum(sized_by_cost(gpus).values()) == gpus
