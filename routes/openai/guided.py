"""The form of an answer as vLLM's clients ask for it: `structured_outputs`, and the older `guided_*` fields."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from engine.errors import ValidationError
from engine.types import ANY_OBJECT
from routes.chat.answer_format import AnswerFormat
from routes.chat.schemas import check_schema
from routes.json_text import read_json
from routes.openai.base import OpenaiRequest
from routes.passed_over import PassedOver, hints, use
from routes.sse import compact

MAX_CHOICES = 1000

Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
Schema = dict[str, Any] | str
TEXTS = f"a list of 1 to {MAX_CHOICES} texts"


class StructuredOutputs(OpenaiRequest):
    """One of: json, a schema or its text; json_object; regex; choice, the texts allowed; grammar, in Lark."""

    model_config = ConfigDict(populate_by_name=True)

    passed_over = PassedOver(
        hints("disable_any_whitespace disable_fallback disable_additional_properties whitespace_pattern backend"),
        notes=use("json", "structural_tag"),
    )

    json_: Annotated[Schema | None, Field(alias="json")] = Field(None, description="a JSON schema, or its text")
    json_object: bool | None = Field(None, description="true or false")
    regex: str | None = Field(None, description="a regular expression")
    choice: Texts | None = Field(None, description=TEXTS)
    grammar: str | None = Field(None, description="a grammar in Lark")


class GuidedRequest(BaseModel):
    """The fields of a request that hold its answers to a form."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = Field(None, description="a JSON schema, or its text")
    guided_regex: str | None = Field(None, description="a regular expression")
    guided_choice: Texts | None = Field(None, description=TEXTS)
    guided_grammar: str | None = Field(None, description="a grammar in Lark")


def guided_format(body: GuidedRequest, other: AnswerFormat | None = None) -> AnswerFormat | None:
    """Return the form of the answers, None if any text is allowed. other: the form that another field asks for.

    The same form in several fields is one, as from a client that sends both its older and its newer name. Raises
    ValidationError, also for more than one form.
    """
    formats = [*([other] if other else []), *_formats(body)]
    for second in formats[1:]:
        if not _same(formats[0], second):
            raise ValidationError(f"{formats[0].field} and {second.field} cannot be combined.", second.field)
    return formats[0] if formats else None


def _same(one: AnswerFormat, other: AnswerFormat) -> bool:
    """Return whether two forms allow the same, as far as their texts tell."""
    if one.schema is None or other.schema is None:
        return replace(other, field=one.field) == one
    for form in (one, other):
        check_schema(form.schema, form.field)
    return compact(one.schema) == compact(other.schema)


def _formats(body: GuidedRequest) -> list[AnswerFormat]:
    outputs, formats = body.structured_outputs, []
    fields: dict[str, Any] = {"guided_json": body.guided_json}
    patterns, grammars = {"guided_regex": body.guided_regex}, {"guided_grammar": body.guided_grammar}
    choices = {"guided_choice": body.guided_choice}
    if outputs is not None:
        fields["structured_outputs.json"] = outputs.json_
        fields["structured_outputs.json_object"] = ANY_OBJECT if outputs.json_object else None
        patterns["structured_outputs.regex"] = outputs.regex
        choices["structured_outputs.choice"] = outputs.choice
        grammars["structured_outputs.grammar"] = outputs.grammar
    formats += [
        AnswerFormat(field, schema=_schema(field, asked)) for field, asked in fields.items() if asked is not None
    ]
    formats += [AnswerFormat(field, regex=asked) for field, asked in patterns.items() if asked is not None]
    formats += [AnswerFormat(field, choice=tuple(asked)) for field, asked in choices.items() if asked is not None]
    formats += [AnswerFormat(field, lark=asked) for field, asked in grammars.items() if asked is not None]
    return formats


def _schema(field: str, asked: Schema) -> dict[str, Any]:
    """Return a schema that is sent as an object, or as its text."""
    if isinstance(asked, str):
        try:
            asked = read_json(asked.encode())
        except ValidationError:
            raise ValidationError(f"{field} must be a JSON schema.", field) from None
    if not isinstance(asked, dict):
        raise ValidationError(f"{field} must be a JSON schema.", field)
    return asked
