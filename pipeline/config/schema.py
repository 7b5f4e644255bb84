"""The JSON schema of the configuration, with which editors complete and check its keys."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _WithoutFieldTitles(GenerateJsonSchema):
    """pydantic's titles of fields repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """What a file with these settings may hold, as a JSON schema.

    It covers each key by itself: its name, type and range. Rules between keys are checked only when
    the configuration is loaded.
    """
    schema = model.model_json_schema(schema_generator=_WithoutFieldTitles)
    for section in (schema, *schema["$defs"].values()):
        for node in section.get("properties", {}).values():
            if "$ref" in node:
                node.pop("default", None)  # each key of a section has its own
    return {"$schema": DIALECT, **schema}
