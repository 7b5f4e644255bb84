"""Prometheus accepts the dashboard's queries and the scrape config."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "infra" / "monitoring"


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((MONITORING / "grafana-dashboard.json").read_text())[
        "panels"
    ]
    return found


def test_panels_do_not_overlap() -> None:
    """Each panel of the dashboard also has a query."""
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert all(target["expr"] for target in panel["targets"])


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found


def test_queries_are_promql(promtool: str, tmp_path: Path) -> None:
    """Prometheus parses every query of the dashboard."""
    rules = [
        {
            "record": f"panel:{number}:{target['refId']}",
            "expr": target["expr"].replace("$session", ".*"),
        }
        for number, panel in enumerate(panels())
        for target in panel["targets"]
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout + done.stderr


def test_prometheus_accepts_the_scrape_config(promtool: str, tmp_path: Path) -> None:
    """promtool checks its syntax."""
    file = MONITORING / "prometheus.yml"
    done = subprocess.run(
        [promtool, "check", "config", "--syntax-only", file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
