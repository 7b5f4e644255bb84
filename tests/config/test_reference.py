"""The reference page configs/README.md agrees with the code that it is generated from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from pipeline.config.config import Config
from pipeline.config.reference import BLOCK, FOLDER, PAGE, filled, rows_of
from pipeline.config.value_text import allowed_text, type_text

ROW = re.compile(r"^\| `([a-z0-9_.*]+)` \|", re.MULTILINE)


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def keys_of(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The dotted keys of a model that hold values, not sections."""
    for name, field in model.model_fields.items():
        options = (field.annotation, *get_args(field.annotation))
        inner = [one for one in options if isinstance(one, type) and issubclass(one, BaseModel)]
        if inner:
            yield from keys_of(inner[0], f"{path}{name}.")
        else:
            yield f"{path}{name}"


def test_committed_page_is_the_generated_one(page: str) -> None:
    """After a change of a key, `make reference` has to be run."""
    assert filled(page) == page


def test_every_key_is_on_the_page_once(page: str) -> None:
    """Where a key stands for several sections, it counts for each of them."""
    blocks = [match[0] for match in BLOCK.finditer(page) if match["name"] not in ("mix", "pack")]
    rows = ROW.findall("".join(blocks))
    keys = list(keys_of(Config))
    assert len(keys) > 100
    counts = {key: sum(fnmatchcase(key, row) for row in rows) for key in keys}
    assert {key: count for key, count in counts.items() if count != 1} == {}
    assert [key for key, count in Counter(rows).items() if count > 1] == []


def test_every_bundled_configuration_is_on_the_page_once(page: str) -> None:
    """With a link to the file."""
    listed = re.findall(r"^\| \[(.+?\.yaml)\]\((.+?)\) \|", page, re.MULTILINE)
    assert all(name == target for name, target in listed)
    assert sorted(name for name, _ in listed) == sorted(file.name for file in FOLDER.glob("*.yaml"))


def test_links_of_the_table_of_contents_lead_to_headings(page: str) -> None:
    """And every heading is in it."""
    anchors = re.findall(r"\]\(#([a-z-]+)\)", page)
    headings = re.findall(r"^##+ (.+)$", page, re.MULTILINE)
    assert set(anchors) == {heading.lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<!-- generated: run -->", "<!-- generated: runs -->"),
        ("<!-- generated: run -->\n", ""),
        (
            "<!-- generated: run -->",
            "<!-- generated: plan -->\n<!-- end -->\n<!-- generated: run -->",
        ),
    ],
    ids=["unknown", "missing", "twice"],
)
def test_a_page_without_the_right_blocks_is_refused(page: str, old: str, new: str) -> None:
    """A new section cannot be forgotten on the page."""
    with pytest.raises(ValueError, match="each block once"):
        filled(page.replace(old, new))


def test_sections_that_share_keys_list_them_once() -> None:
    """Other keys of such sections stand beside them, under their own name."""
    keys = [row.key for row in rows_of(Config) if row.table == "scores"]
    assert {"scores.*.path", "scores.lpips", "scores.lpips.net"} <= set(keys)
    assert "scores.clip.path" not in keys


@pytest.mark.parametrize(
    ("node", "type_", "allowed"),
    [
        ({"type": "integer", "minimum": 1}, "integer", "1 or more"),
        ({"type": "integer", "minimum": 1, "maximum": 100}, "integer", "1 to 100"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number", "above 0, up to 1"),
        (
            {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**63},
            "integer",
            "0 to 2^63 - 1",
        ),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null", ""),
        ({"type": "string", "enum": ["a", "b"]}, "choice", "`a`, `b`"),
        (
            {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "const": "auto"}]},
            "integer or choice",
            "1 or more, `auto`",
        ),
        (
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
            "string or a list of these",
            "",
        ),
        (
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "list of strings",
            "at least one",
        ),
    ],
)
def test_types_and_ranges_are_written_in_words(
    node: dict[str, Any], type_: str, allowed: str
) -> None:
    """Each form of a JSON schema that the configuration has."""
    assert type_text({}, node) == type_
    assert allowed_text({}, node) == allowed
