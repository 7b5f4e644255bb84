"""Configurations are YAML 1.2, and say what is wrong where a key stands twice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import ConfigError, load_config
from pipeline.config.yaml_text import parse_saved_yaml, parse_yaml, yaml_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{on: off, yes: no, y: n}", {"on": "off", "yes": "no", "y": "n"}),
        ("[true, True, false, FALSE]", [True, True, False, False]),
        ("[010, 0o10, 0x1F, -3, +4]", [10, 8, 31, -3, 4]),
        ("[1e-4, 1.5, .5, 5., -1E3]", [1e-4, 1.5, 0.5, 5.0, -1000.0]),
        ("[.inf, -.INF]", [math.inf, -math.inf]),
        (
            "[1:30, 2024-01-01, 1_000, 0b1, 12e, .]",
            ["1:30", "2024-01-01", "1_000", "0b1", "12e", "."],
        ),
        ("[~, null, Null, '']", [None, None, None, ""]),
        ("{a: &a {x: 1, y: 2}, b: {<<: *a, x: 3}}", {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}),
    ],
)
def test_values_are_those_of_the_core_schema(text: str, value: Any) -> None:
    """``{on: under}`` replaces a word of a caption; 010 is ten."""
    found = parse_yaml(text)
    assert found == value
    assert repr(found) == repr(value)  # 1 is not True


def test_what_is_written_is_read_by_both_readers() -> None:
    """Also what one version of YAML takes for something else than text."""
    texts = ["off", "yes", "010", "1:30", "1e-4", "0o17", "1_000", "true", "~", "2024-01-01", ""]
    texts += ["a: b", "é", ".5", "0x1f", "=", "<<", "- a", "# b", "a\nb"]
    numbers = [1, -3, 1.5, 1e-5, 1e16, True, False, None, math.inf]
    tree = {text: [text, numbers] for text in texts}
    assert repr(parse_yaml(yaml_text(tree))) == repr(tree)
    assert repr(parse_saved_yaml(yaml_text(tree))) == repr(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: {steps: 5}\nrun: {}\nmethod: {solver: ddim}\n", "line 3: the key 'method' is"),
        ("method:\n  steps: 5\n  solver: ddim\n  steps: 6\n", "line 4: the key 'steps' is there"),
        ("input: {substitutions: {a: b, 'a': c}}", "line 1: the key 'a' is there twice"),
    ],
)
def test_a_key_that_stands_twice_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    """PyYAML forgets the first one without a word, e.g. all settings of a pasted section."""
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"my\.yaml: {message}"):
        load_config(tmp_path / "my.yaml")


def test_off_needs_no_quotes(tmp_path: Path) -> None:
    """In a file, and in an override."""
    (tmp_path / "my.yaml").write_text("{input: {shards: a}, output: {path: b}}")
    config = load_config(tmp_path / "my.yaml", ["model.compile=off", "output.lossless=no"])
    assert config.model.compile == "off"
    assert config.output.lossless is False
