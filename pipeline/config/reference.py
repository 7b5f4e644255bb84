"""The generated parts of ``configs/``: the tables of keys in its README.md, and schema.json.

    python -m pipeline.config.reference

rewrites both in a checkout. In the README a table stands between ``<!-- generated: NAME -->`` and
``<!-- end -->``; all other text there is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from pipeline.config.config import Config
from pipeline.config.filters import PRESETS
from pipeline.config.mix import Mix
from pipeline.config.pack import Packing
from pipeline.config.schema import schema_of
from pipeline.config.scores import ALWAYS
from pipeline.config.value_text import allowed_text, type_text

FOLDER = Path(__file__).resolve().parents[2] / "configs"
PAGE, SCHEMA = FOLDER / "README.md", FOLDER / "schema.json"
BLOCK = re.compile(r"(<!-- generated: (?P<name>[^\n]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADER = "| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n"

Node = dict[str, Any]  # of a JSON schema


@dataclass(frozen=True)
class Row:
    """A key in a table; ``*`` in it stands for every section that has the key."""

    table: str
    key: str
    type: str
    default: str
    allowed: str
    meaning: str

    def __str__(self) -> str:
        cells = (f"`{self.key}`", self.type, self.default, self.allowed, self.meaning)
        return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def main() -> None:
    """Writes the page and the schema."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    print(f"wrote {PAGE} and {SCHEMA}")


def schema_text() -> str:
    """The content of ``configs/schema.json``."""
    return json.dumps(schema_of(Config), indent=2) + "\n"


def filled(page: str) -> str:
    """The page with what is generated in place.

    Raises:
        ValueError: the page names a block that does not exist, lacks one, or has one twice.
    """
    blocks = generated()
    named = [match["name"] for match in BLOCK.finditer(page)]
    if sorted(named) != sorted(blocks):
        missing, unknown = sorted(blocks.keys() - set(named)), sorted(set(named) - blocks.keys())
        raise ValueError(f"{PAGE}: each block once; missing: {missing}, unknown: {unknown}")
    return BLOCK.sub(lambda match: match[1] + blocks[match["name"]] + match[3], page)


def generated() -> dict[str, str]:
    """What stands in the page's blocks, by name: a table for each section, and a few lists."""
    rows = [
        *rows_of(Config),
        *(replace(row, table="mix") for row in rows_of(Mix) if not row.key.startswith("input.")),
        *(replace(row, table="pack") for row in rows_of(Packing)),
    ]
    tables: dict[str, str] = {}
    for row in rows:
        tables[row.table] = tables.get(row.table, HEADER) + str(row)
    presets = "".join(f"| `{name}` | `{'`, `'.join(PRESETS[name])}` |\n" for name in PRESETS)
    return tables | {
        "scores of every run": f"`{'`, `'.join(ALWAYS)}`\n",
        "presets": f"| preset | filters |\n|---|---|\n{presets}",
    }


def rows_of(model: type[BaseModel]) -> list[Row]:
    """Every key of a model, in its order."""
    schema = schema_of(model)
    return list(_rows(schema, schema, path="", table=""))


def _rows(schema: Node, section: Node, path: str, table: str) -> Iterator[Row]:
    """The keys of a section, then those of the sections in it.

    An inner section has a table of its own, but for sections that share keys: theirs are in the
    table of the outer one, each shared key once.
    """
    inner = {}
    for name, node in section["properties"].items():
        found = _section_of(schema, node)
        if found is None or "description" in node:
            yield _row(schema, section, name, path, table or name)
        if found is not None:
            inner[name] = found
    shared = _shared_keys(list(inner.values()))
    for name in shared:
        yield _row(schema, next(iter(inner.values())), name, f"{path}*.", table)
    for name, found in inner.items():
        own = {key: node for key, node in found["properties"].items() if key not in shared}
        inner_table = table if shared else f"{path}{name}"
        yield from _rows(schema, found | {"properties": own}, f"{path}{name}.", inner_table)


def _row(schema: Node, section: Node, name: str, path: str, table: str) -> Row:
    node = section["properties"][name]
    default = f"`{_yaml(node['default'])}`" if "default" in node else ""
    return Row(
        table=table,
        key=f"{path}{name}",
        type=type_text(schema, node),
        default="required" if name in section.get("required", ()) else default,
        allowed=allowed_text(schema, node),
        meaning=node["description"],
    )


def _section_of(schema: Node, node: Node) -> Node | None:
    """The section that a key holds, always or if it is not null, or a list of; None for a value."""
    node = node["items"] if "$ref" in node.get("items", {}) else node
    options = [option for option in node.get("anyOf", [node]) if option.get("type") != "null"]
    if len(options) != 1 or "$ref" not in options[0]:
        return None
    found: Node = schema["$defs"][options[0]["$ref"].rpartition("/")[2]]
    return found


def _shared_keys(sections: list[Node]) -> list[str]:
    """The keys that several sections all have, each with the same type, range and meaning."""
    if len(sections) < 2:
        return []
    first, *others = (section["properties"] for section in sections)
    return [name for name in first if all(first[name] == other.get(name) for other in others)]


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()[0]


if __name__ == "__main__":
    main()
