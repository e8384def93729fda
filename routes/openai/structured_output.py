"""The form of an answer as OpenAI's clients ask for it, and as the service enforces it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field

from routes.chat.answer_format import ANY_OBJECT, AnswerFormat
from routes.openai.base import OpenaiRequest

SCHEMA = "response_format.json_schema.schema"


class TextFormat(OpenaiRequest):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(OpenaiRequest):
    """A JSON object."""

    type: Literal["json_object"]


class JsonSchema(OpenaiRequest):
    """A schema and its name; strict is accepted and ignored: the answer always conforms to the schema."""

    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(OpenaiRequest):
    """JSON that conforms to a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Discriminator("type")]


def answer_format(asked: TextFormat | JsonObjectFormat | JsonSchemaFormat | None) -> AnswerFormat | None:
    """Return the form of the answers, None if any text is allowed."""
    if asked is None or isinstance(asked, TextFormat):
        return None
    own = asked.json_schema.schema_ if isinstance(asked, JsonSchemaFormat) else None
    return AnswerFormat(SCHEMA, schema=ANY_OBJECT if own is None else own)
