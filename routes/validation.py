"""From values to a request model: strict models, and one message for the first mistake in a request.

Used for /api/v1, the forms of the pages, batches and /v1. What differs between them is data of models and fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import ValidationError as PydanticError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from engine.errors import ContextTooLong, Message, ValidationError
from routes.json_values import shown_name
from routes.passed_over import PassedOver

AnyRequest = TypeVar("AnyRequest", bound="RequestModel")

# What completes "<field> must be ..." where the field's description does not; `{...}` are pydantic's own figures.
SHOULD_BE = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "literal_error": "{expected}",
    "union_tag_invalid": "an object whose {discriminator} is one of: {expected_tags}",
    "union_tag_not_found": "an object with the field {discriminator}",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "a text of at least {min_length} characters",
    "string_too_long": "a text of at most {max_length} characters",
    "string_unicode": "a text of valid characters",
    "string_pattern_mismatch": "a text of the form {pattern}",
}
TOO_LONG = "conversation_too_long"  # our own kind of mistake: clients can shorten what they send
NOT_SUPPORTED = "not_supported"  # our own kind of mistake: an unknown field of which something is known
# Prefix of the tags of unions whose branches a request does not name; pydantic puts tags into its paths.
BRANCH = "branch:"


@dataclass(frozen=True, slots=True)
class Wording:
    """In a field's annotation: the messages for mistakes in it, by pydantic's kind; otherwise: for all other kinds."""

    by_kind: Mapping[str, Message] = field(default_factory=dict)
    otherwise: Message | None = None


class RequestModel(BaseModel):
    """A request or a part of one: unknown fields are refused, nothing is converted.

    names_parts: a mistake inside a field is named by its path (`messages[2].content`) and not by the field alone;
    union_tags: values of `role` and `type` that tell the branches of unions apart; passed_over: fields that are not
    refused though they are unknown, None if there are none.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    names_parts: ClassVar[bool] = False
    union_tags: ClassVar[frozenset[str]] = frozenset()
    passed_over: ClassVar[PassedOver | None] = None

    @model_validator(mode="before")
    @classmethod
    def _one_unknown(cls, values: Any) -> Any:
        """Keep the first of the unknown fields: pydantic makes an error of each, and one is shown."""
        known, may = _fields_of(cls), cls.passed_over
        if not isinstance(values, dict) or values.keys() <= known:
            return values
        refused = (
            name for name, value in values.items() if name not in known and not (may and may.allows(name, value))
        )
        unknown = next(refused, None)
        if unknown is not None and may:
            field = may.changing(unknown, values[unknown]) or unknown
            if reason := may.refusal(field, known):
                raise PydanticCustomError(NOT_SUPPORTED, "not supported", {"field": field, "reason": reason})
        return {name: value for name, value in values.items() if name in known or name == unknown}


@cache
def _fields_of(model: type[RequestModel]) -> frozenset[str]:
    """Return the names of a model's fields in JSON."""
    return frozenset(field.alias or name for name, field in model.model_fields.items())


def few(most: int) -> Callable[[Any], Any]:
    """Return what refuses an object of more than `most` values before each is checked: each could be a mistake."""

    def checked(values: Any) -> Any:
        if isinstance(values, dict) and len(values) > most:
            raise PydanticCustomError("too_many", "too many")
        return values

    return checked


def conversation_of(most: int) -> Callable[[Any], Any]:
    """Return what refuses a list of more than `most` messages before each is checked, as what can be shortened."""

    def checked(values: Any) -> Any:
        if isinstance(values, list) and len(values) > most:
            raise PydanticCustomError(TOO_LONG, "too long", {"most": most})
        return values

    return checked


def validated(model: type[AnyRequest], values: Mapping[str, Any]) -> AnyRequest:
    """Return the request with these values. Raises ValidationError with a message about the first mistake."""
    try:
        return model.model_validate(values)
    except PydanticError as error:
        raise _refusal(model, values, error.errors(include_url=False, include_input=False)[0]) from None


def _refusal(model: type[RequestModel], values: Mapping[str, Any], mistake: ErrorDetails) -> ValidationError:
    kind, figures = mistake["type"], mistake.get("ctx", {})
    steps = (*mistake["loc"], figures["field"]) if kind == NOT_SUPPORTED else mistake["loc"]
    path = _path(steps, values, model.union_tags) if model.names_parts else shown_name(str(steps[0]))
    if kind == NOT_SUPPORTED:
        return ValidationError(f"{path} {figures['reason']}", path)
    if kind == TOO_LONG:
        return ContextTooLong(f"{path} must be a list of at most {figures['most']}.", path)
    if kind == "extra_forbidden":
        return unknown_field(path)
    known = model.model_fields.get(path)
    if known is not None and (message := _worded(known, kind)):
        return ValidationError(message, path)
    if kind == "missing":
        return ValidationError(f"{path} is required.", path)
    if known is not None and known.description:
        return ValidationError(f"{path} must be {known.description}.", path)
    should_be = SHOULD_BE.get(kind, "a value that is allowed here").format(**figures)
    return ValidationError(f"{path} must be {should_be.replace(chr(39), '')}.", path)


def unknown_field(name: str) -> ValidationError:
    """Return the error for a field that the request does not have."""
    return ValidationError(Message("unknown_field", "Unknown field: {name}.", name=name), name)


def _worded(field: FieldInfo, kind: str) -> Message | None:
    wording = next((one for one in field.metadata if isinstance(one, Wording)), Wording())
    return wording.by_kind.get(kind, wording.otherwise)


def _path(location: tuple[int | str, ...], values: Any, tags: frozenset[str]) -> str:
    """Return where a mistake is, as a client would write it: `messages[2].content`. values: the request."""
    path, tagged = "", False
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not path:
            path = shown_name(step)
        elif step.startswith((BRANCH, "[key]")) or (not tagged and step in tags and _names_its_branch(values, step)):
            tagged = True
            continue
        else:
            path += f".{shown_name(step)}"
        values, tagged = _inside(values, step), False
    return path


def _names_its_branch(value: Any, tag: str) -> bool:
    return isinstance(value, dict) and tag in (value.get("role"), value.get("type"))


def _inside(value: Any, step: int | str) -> Any:
    try:
        return value[step]
    except (LookupError, TypeError):
        return None
