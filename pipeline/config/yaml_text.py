"""YAML as configurations have it: the core schema of YAML 1.2, and no key twice in a mapping.

PyYAML reads YAML 1.1, in which the words on, off, yes and no are truth values, 010 is 8 and 1:30 is
90, and of two equal keys the first is lost without a word.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_DEPTH = 32  # of a saved configuration
TAG = "tag:yaml.org,2002:"
# https://yaml.org/spec/1.2.2/#103-core-schema; null is the same in both versions
SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
OF_VERSION_1_1 = {f"{TAG}{name}" for name in (*SCALARS, "timestamp")}


class _TwiceError(ValueError):
    """A mapping has a key twice."""


class _Loader(yaml.SafeLoader):
    """Reads configurations and overrides."""

    yaml_implicit_resolvers = {  # as in PyYAML
        first: [one for one in found if one[0] not in OF_VERSION_1_1]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{TAG}merge":
                if (key.tag, key.value) in seen:
                    line = key.start_mark.line + 1
                    raise _TwiceError(f"line {line}: the key {key.value!r} is there twice")
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either version of YAML would not read as text; writes no alias."""

    yaml_implicit_resolvers = {
        first: list(found) for first, found in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, (_pattern, _first) in SCALARS.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"{TAG}{_name}", re.compile(f"(?:{_pattern})$"), list(_first))
_Loader.add_constructor(f"{TAG}int", _Loader.construct_yaml_int)


class _SavedLoader(yaml.SafeLoader):
    """Stops at what no saved configuration has: deep nesting, and aliases.

    A chain of aliases makes a value of any size of a few lines, and PyYAML takes minutes for a
    thousand brackets. YAML 1.1, since earlier versions saved with PyYAML's own rules.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.depth >= MAX_DEPTH or self.check_event(yaml.AliasEvent):
            raise ValueError("it is nested too deep, or has an alias")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def parse_yaml(text: str) -> Any:
    """The value of a YAML document without tags of Python.

    Raises:
        ValueError: it is not YAML, has a key twice in a mapping, or is nested too deep.
    """
    return _parsed(text, _Loader)


def parse_saved_yaml(text: str) -> Any:
    """The value of a document that ``yaml_text`` or an earlier version has written.

    Raises:
        ValueError: it is not YAML, is nested too deep, or has aliases.
    """
    return _parsed(text, _SavedLoader)


def yaml_text(value: Any) -> str:
    """A document of plain values, which both functions above read alike. Keys keep their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _parsed(text: str, loader: type[yaml.SafeLoader]) -> Any:
    try:
        return yaml.load(text, loader)
    except _TwiceError:
        raise
    except RecursionError:
        raise ValueError("not YAML: it is nested too deep") from None
    except Exception as error:  # noqa: BLE001 - on odd values PyYAML raises errors of many types
        raise ValueError(f"not YAML: {error}") from None
