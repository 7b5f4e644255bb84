"""Trade-off curves: what is compared, and where one lies above another."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.evaluation.curves import METHODS, Point, axes_of, compare, overrides_for
from pipeline.evaluation.plots import plot_curves
from pipeline.evaluation.tables import table
from pipeline.words.config_file import load_config


def points(method: str, *pairs: tuple[float, float], axis: str = "confirmed_e2") -> list[Point]:
    return [
        Point(method, number / 10, {"psnr_db": x, axis: y}) for number, (x, y) in enumerate(pairs)
    ]


def test_curves_are_compared_where_they_overlap() -> None:
    """At every point of either curve in the overlap, and at its two ends."""
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


def test_a_dip_between_the_ends_is_seen() -> None:
    """A curve that is above at both ends of the overlap and below inside is not above."""
    both = points("A", (0, 10), (5, 0), (10, 10)) + points("B", (0, 5), (10, 5))
    found = compare(both, "A", "B")
    assert found is not None
    assert found["difference"] == [5, -5, 5]
    assert not found["above_everywhere"]


def test_of_distances_lower_is_better() -> None:
    """CSFID is a distance itself: the curve below is the better one."""
    a = [Point("A", r, {"lpips_e2": x, "csfid": y}) for r, x, y in ((0.1, 1, 5), (0.2, 2, 4))]
    b = [Point("B", r, {"lpips_e2": x, "csfid": y}) for r, x, y in ((0.1, 1, 9), (0.2, 2, 8))]
    found = compare([*a, *b], "A", "B")
    assert found is not None
    assert found["above_everywhere"]


def test_curves_apart_or_without_common_figures_are_not_compared() -> None:
    """No overlap, one point only, or no pair of axes: there is nothing to say."""
    assert compare(points("A", (0, 1), (1, 1)) + points("B", (2, 1), (3, 1)), "A", "B") is None
    assert compare(points("A", (0, 1)) + points("B", (0, 1), (3, 1)), "A", "B") is None
    mixed = points("A", (0, 1), (1, 1)) + points("B", (0, 1), (1, 1), axis="csfid")
    assert axes_of(mixed) is None
    assert compare(mixed, "A", "B") is None


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_configuration(name: str) -> None:
    """The ratio is the one that the method uses, and the pixel composite is off."""
    config = load_config("demo", overrides_for(name, 0.35))
    assert not config.method.composite.enabled
    if name == "Imagic":
        assert config.method.imagic.interp_eta == 0.35
        return
    assert config.method.ratio == 0.35
    masked = config.method.mask.source == "infer"
    assert masked == (name in ("DiffEdit", "without encoding"))
    assert (config.method.encode == "ddim") == (name in ("DiffEdit", "without mask"))


def test_an_unknown_method_is_named() -> None:
    """With what there is."""
    with pytest.raises(ValueError, match="no method 'Other'; there are DiffEdit"):
        overrides_for("Other", 0.5)


def test_table_has_a_dash_where_a_figure_is_missing() -> None:
    """Published rows first, then ours, in the columns of the benchmark."""
    text = table(("psnr_db", "csfid"), {"Paper": {"csfid": 23.6}}, {"mine": {"psnr_db": 30.123}})
    assert text.splitlines() == [
        "| method | PSNR, true background | CSFID |",
        "|---|---|---|",
        "| Paper (published) | – | 23.60 |",
        "| mine | 30.12 | – |",
    ]


def test_plot_is_drawn_or_says_that_it_cannot(tmp_path: Path) -> None:
    """A PNG of the curves; without common axes nothing is written."""
    assert plot_curves(points("A", (10, 90), (20, 50)), "title", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not plot_curves([Point("A", 0.1, {"csfid": 1.0})], "title", tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
