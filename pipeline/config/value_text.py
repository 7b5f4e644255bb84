"""Types and ranges of values in a JSON schema, in words for the reference page."""

from __future__ import annotations

from typing import Any

from pipeline.config.filters import Preset

Node = dict[str, Any]  # of a JSON schema
PLURAL = {"string": "strings", "integer": "integers", "number": "numbers"}


def type_text(schema: Node, node: Node) -> str:
    """The type of a key's value: "integer or null", "list of strings"."""
    options = node.get("anyOf", [node])
    kinds = [_one_type(schema, option) for option in options if not _lists_others(option, options)]
    texts = list(dict.fromkeys(kinds))
    return " or ".join(texts + ["a list of these"] * (len(options) - len(kinds)))


def allowed_text(schema: Node, node: Node) -> str:
    """The values that a key takes: "1 or more", "`jpg`, `png`"; empty if its type says it all."""
    if "anyOf" in node:
        texts = [allowed_text(schema, option) for option in node["anyOf"]]
        return ", ".join(dict.fromkeys(text for text in texts if text))
    if "enum" in node:
        return f"`{'`, `'.join(node['enum'])}`"
    if "const" in node:
        return f"`{node['const']}`"
    if node.get("type") == "array":
        items = node.get("items") or node["prefixItems"][0]
        at_least = "at least one" if node.get("minItems") == 1 and not _range(items) else ""
        return allowed_text(schema, items) or at_least
    return _range(node)


def _one_type(schema: Node, node: Node) -> str:
    if "$ref" in node:
        found = schema["$defs"][node["$ref"].rpartition("/")[2]]
        return "`{preset: name}`" if found["title"] == Preset.__name__ else "section"
    if "enum" in node or "const" in node:
        return "choice"
    if node["type"] == "array" and "prefixItems" in node:
        return f"list of {len(node['prefixItems'])} numbers"
    if node["type"] == "array" and node["items"].get("type") == "array":
        return f"list of {_one_type(schema, node['items']).replace('list', 'lists', 1)}"
    if node["type"] == "array":
        return f"list of {PLURAL.get(node['items'].get('type'), 'sections')}"
    if node["type"] == "object":
        return "mapping"
    return str(node["type"])


def _lists_others(option: Node, options: list[Node]) -> bool:
    """Whether an option is a list of what the other options are, one by one."""
    others = [other for other in options if other is not option]
    items = option.get("items")
    return items is not None and bool(others) and items.get("anyOf", [items]) == others


def _range(node: Node) -> str:
    lowest, above = node.get("minimum"), node.get("exclusiveMinimum")
    highest, below = node.get("maximum"), node.get("exclusiveMaximum")
    if below is not None:  # only integers have it, and it is a power of two
        return f"{lowest} to 2^{below.bit_length() - 1} - 1"
    if above is not None:
        return f"above {above:g}" + ("" if highest is None else f", up to {_number(highest)}")
    if highest is not None:
        return f"{lowest:g} to {_number(highest)}"
    return "" if lowest is None else f"{lowest:.12g} or more"


def _number(value: float) -> str:
    """In digits, without an exponent."""
    return f"{value:,.0f}" if value >= 10_000 else f"{value:g}"
