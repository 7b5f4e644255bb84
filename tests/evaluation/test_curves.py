"""Trade-off curves: the comparison of two curves, and its confidence intervals."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config.load import load_config
from pipeline.evaluation.curves import METHODS, Point, axes_of, compare, margins, overrides_for
from pipeline.evaluation.intervals import RESAMPLES, _interval, _means, bootstrap
from pipeline.evaluation.plots import plot_curves
from pipeline.evaluation.tables import table


def points(method: str, *pairs: tuple[float, float], axis: str = "confirmed_e2") -> list[Point]:
    return [
        Point(method, number / 10, {"psnr_db": x, axis: y}) for number, (x, y) in enumerate(pairs)
    ]


def test_curves_are_compared_in_their_overlap() -> None:
    """They are compared at the points of both curves inside the overlap, and at its ends."""
    both = points("A", (10, 90), (20, 50)) + points("B", (14, 60), (30, 20))
    found = compare(both, "A", "B")
    assert found is not None
    assert found["overlap"] == [14, 20]
    assert found["compared_at"] == [14, 20]
    assert found["difference"] == pytest.approx([74 - 60, 50 - 45])
    assert found["above_everywhere"]
    other = compare(both, "B", "A")
    assert other is not None
    assert not other["above_everywhere"]


def test_curve_that_dips_below_is_not_above_everywhere() -> None:
    """A curve that is above at both ends and below in between is not above everywhere."""
    both = points("A", (0, 10), (5, 0), (10, 10)) + points("B", (0, 5), (10, 5))
    found = compare(both, "A", "B")
    assert found is not None
    assert found["difference"] == [5, -5, 5]
    assert not found["above_everywhere"]


def test_lower_csfid_is_better() -> None:
    """CSFID is itself a distance, so the lower curve is the better one."""
    a = [Point("A", r, {"lpips_e2": x, "csfid": y}) for r, x, y in ((0.1, 1, 5), (0.2, 2, 4))]
    b = [Point("B", r, {"lpips_e2": x, "csfid": y}) for r, x, y in ((0.1, 1, 9), (0.2, 2, 8))]
    found = compare([*a, *b], "A", "B")
    assert found is not None
    assert found["above_everywhere"]


def test_curves_apart_or_without_common_figures_are_not_compared() -> None:
    """Without overlap, with one point only, or without a pair of axes, the result is None."""
    assert compare(points("A", (0, 1), (1, 1)) + points("B", (2, 1), (3, 1)), "A", "B") is None
    assert compare(points("A", (0, 1)) + points("B", (0, 1), (3, 1)), "A", "B") is None
    mixed = points("A", (0, 1), (1, 1)) + points("B", (0, 1), (1, 1), axis="csfid")
    assert axes_of(mixed) is None
    assert compare(mixed, "A", "B") is None


@pytest.mark.parametrize("name", METHODS)
def test_overrides_give_a_valid_configuration_for_every_method(name: str) -> None:
    """The ratio sets the setting that the method uses, and the pixel composite is off."""
    config = load_config("demo", overrides_for(name, 0.35))
    assert not config.method.composite.enabled
    if name == "Imagic":
        assert config.method.imagic is not None
        assert config.method.imagic.interp_eta == 0.35
        return
    assert config.method.ratio == 0.35
    masked = config.method.mask.source == "infer"
    assert masked == (name in ("DiffEdit", "without encoding"))
    assert (config.method.encode == "ddim") == (name in ("DiffEdit", "without mask"))


def test_unknown_method_is_an_error() -> None:
    """The error names the method and the allowed ones."""
    with pytest.raises(ValueError, match="no method 'Other'; allowed are DiffEdit"):
        overrides_for("Other", 0.5)


def test_table_has_a_dash_for_a_missing_figure() -> None:
    """Published rows come first, then ours, in the columns of the benchmark."""
    text = table(("psnr_db", "csfid"), {"Paper": {"csfid": 23.6}}, {"mine": {"psnr_db": 30.123}})
    assert text.splitlines() == [
        "| method | PSNR, true background | CSFID |",
        "|---|---|---|",
        "| Paper (published) | – | 23.60 |",
        "| mine | 30.12 | – |",
    ]


def test_plot_needs_common_axes() -> None:
    """The plot is a PNG; without common axes it is None."""
    drawn = plot_curves(points("A", (10, 90), (20, 50)), "title")
    assert drawn is not None
    assert drawn.startswith(b"\x89PNG")
    assert plot_curves([Point("A", 0.1, {"csfid": 1.0})], "title") is None


def noisy(method: str, lift: float, edits: int = 200) -> list[Point]:
    """Points whose edits scatter around known means; ``lift`` is added to the agreement."""
    scatter = np.random.default_rng(0).normal(0, 10, edits)  # of the tasks, equal for all methods
    own = np.random.default_rng(ord(method))
    found = []
    for ratio, x, y in ((0.4, 30.0, 50.0), (0.6, 26.0, 60.0), (0.8, 22.0, 70.0)):
        figures = [
            {"psnr_db": x + s / 20, "confirmed_e2": y + lift + s + float(own.normal(0, 3))}
            for s in scatter
        ]
        mean = {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}
        found.append(Point(method, ratio, mean, {str(n): f for n, f in enumerate(figures)}))
    return found


def test_bootstrap_interval_contains_the_true_difference() -> None:
    """A lift of 2 is significant although edits scatter by 10, because tasks are drawn jointly."""
    both = noisy("A", 2.0) + noisy("B", 0.0)
    found = compare(both, "A", "B")
    assert found is not None
    result = bootstrap(both, "A", "B", found["compared_at"])
    assert result is not None
    assert (result["edits"], result["resamples"]) == (200, RESAMPLES)
    low, high = result["mean_interval"]
    assert 1.0 < low < found["mean_difference"] < high < 3.0
    assert result["overlapping"] == 1.0
    for interval, value in zip(result["intervals"], found["difference"], strict=True):
        assert interval[0] <= value <= interval[1]
    assert result["above_everywhere"] > 0.9
    other = bootstrap(both, "B", "A", found["compared_at"])
    assert other is not None
    assert other["above_everywhere"] < 0.1
    assert other["mean_interval"] == pytest.approx([-high, -low])


def test_margins_of_a_case_solved_by_hand() -> None:
    """The difference falls from 4 to 0 over the first third of the range, and stays 0."""
    found = margins([(0.0, 4.0), (1.0, 0.0), (3.0, 0.0)], [(0.0, 0.0), (3.0, 0.0)])
    assert found is not None
    assert found.mean == pytest.approx(2 / 3)
    assert found.at_fractions([0, 1 / 6, 1 / 3, 1]).tolist() == pytest.approx([4, 2, 0, 0])


def test_resampled_means_ignore_edits_without_the_figure() -> None:
    """Two edits, one of which has no figures at one point and does not count there."""
    edits = {"0": {"psnr_db": 1.0, "confirmed_e2": 0.0}, "1": {"psnr_db": 3.0, "confirmed_e2": 9.0}}
    complete = Point("A", 0.1, {}, edits)
    incomplete = Point("A", 0.2, {}, {"0": edits["0"]})
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    assert _means(complete, ["0", "1"], "psnr_db", weights).tolist() == [2.0, 1.0, 3.0]
    assert np.array_equal(
        _means(incomplete, ["0", "1"], "psnr_db", weights), [1.0, 1.0, np.nan], equal_nan=True
    )


def test_interval_contains_the_middle_95_percent() -> None:
    """The interval of 0 to 200 in steps of 1 is 5 to 195; without values it is None."""
    assert _interval(list(range(201))) == [5.0, 195.0]
    assert _interval([]) is None


def test_intervals_change_sign_if_lower_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a lower figure is better, the interval is negated."""
    both = noisy("A", 2.0) + noisy("B", 0.0)
    at = [22.0, 30.0]
    more = bootstrap(both, "A", "B", at)
    monkeypatch.setattr("pipeline.evaluation.curves.LOWER_IS_BETTER", {"confirmed_e2"})
    less = bootstrap(both, "A", "B", at)
    assert more is not None
    assert less is not None
    low, high = more["mean_interval"]
    assert less["mean_interval"] == [-high, -low]
    assert more["above_everywhere"] > 0.9
    assert less["above_everywhere"] < 0.1


def test_figures_that_are_not_means_over_edits_have_no_interval() -> None:
    """CSFID belongs to all edits together, and points without edits cannot be resampled."""
    both = points("A", (10, 90), (20, 50)) + points("B", (14, 60), (30, 20))
    assert bootstrap(both, "A", "B", [14, 20]) is None
    with_edits = [
        Point(p.method, p.ratio, {"lpips_e2": p.ratio, "csfid": 1.0}, {"0": {"lpips_e2": 1.0}})
        for p in both
    ]
    assert bootstrap(with_edits, "A", "B", [0.1]) is None
