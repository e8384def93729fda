"""The form of an answer as OpenAI's clients ask for it, and as the service enforces it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field

from engine.errors import ValidationError
from engine.types import ANY_OBJECT
from routes.chat.answer_format import AnswerFormat
from routes.openai.base import OpenaiRequest
from routes.passed_over import FORMAT

SCHEMA, OWN_SCHEMA = "response_format.json_schema.schema", "response_format.schema"


class TextFormat(OpenaiRequest):
    """Any text."""

    passed_over = FORMAT

    type: Literal["text"]


class JsonObjectFormat(OpenaiRequest):
    """A JSON object; with a schema, one that conforms to it."""

    passed_over = FORMAT

    type: Literal["json_object"]
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class JsonSchema(OpenaiRequest):
    """A schema; name, description and strict change nothing: the answer always conforms to the schema."""

    model_config = ConfigDict(populate_by_name=True)

    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(OpenaiRequest):
    """JSON that conforms to a schema. schema: the same without a name, as other servers take it."""

    passed_over = FORMAT

    type: Literal["json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Discriminator("type")]


def answer_format(asked: TextFormat | JsonObjectFormat | JsonSchemaFormat | None) -> AnswerFormat | None:
    """Return the form of the answers, None if any text is allowed. Raises ValidationError."""
    if asked is None or isinstance(asked, TextFormat):
        return None
    if isinstance(asked, JsonObjectFormat):
        return AnswerFormat(OWN_SCHEMA, schema=asked.schema_ or ANY_OBJECT)
    named = asked.json_schema
    if named is None and asked.schema_ is None:
        raise ValidationError("response_format.json_schema is required.", "response_format.json_schema")
    field, own = (OWN_SCHEMA, asked.schema_) if named is None else (SCHEMA, named.schema_)
    return AnswerFormat(field, schema=ANY_OBJECT if own is None else own, strict=named.strict if named else None)
