"""Describes lists of parts in which a note may stand for a part."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from routes.chat.history import Parts

UNREAD = "Any other part, for which a note stands in a result and in an earlier turn; refused in what is asked now."


@dataclass(frozen=True, slots=True, eq=False)
class Noted:
    """In the annotation of a list: that it may have other parts, or none, in the past."""

    parts: Parts

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        schema.pop("minItems", None)
        kind = {"type": "string", "not": {"enum": sorted(self.parts.others)}}
        unread = {"type": "object", "properties": {"type": kind}, "required": ["type"], "description": UNREAD}
        return schema | {"items": {"anyOf": [schema["items"], unread]}}
