"""How a body of /v1 is read: strict models in which null counts as absent, and one sentence for each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import ValidationError as PydanticError
from pydantic_core import ErrorDetails

from engine.errors import ValidationError
from routes.parsing import shown_name

Asked = TypeVar("Asked", bound=BaseModel)

# What a value of this kind of mistake should have been; `{...}` are pydantic's own figures.
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
# Names of the branches of unions; they stand in pydantic's paths and in no request.
BRANCH = "branch:"
# The same, where it is a field of the value that tells the branches apart.
TAGS = frozenset(
    ("system", "developer", "user", "assistant", "tool", "text", "image_url", "refusal", "json_object", "json_schema")
)


class Body(BaseModel):
    """A part of a request: nothing unknown, no conversions, and an optional field that is null is not there."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None or name not in known}


def validated(model: type[Asked], values: Mapping[str, Any]) -> Asked:
    """Return the request that the values make. Raises ValidationError that names the first field to mend."""
    try:
        return model.model_validate(values)
    except PydanticError as error:
        raise _refusal(model, values, error.errors(include_url=False, include_input=False)[0]) from None


def _refusal(model: type[BaseModel], values: Any, mistake: ErrorDetails) -> ValidationError:
    path = path_of(mistake["loc"], values)
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind == "extra_forbidden":
        return ValidationError(f"Unknown field: {path}.", path)
    if kind == "missing":
        return ValidationError(f"{path} is required.", path)
    field = model.model_fields.get(path)
    if field is not None and field.description:
        return ValidationError(f"{path} must be {field.description}.", path)
    should_be = SHOULD_BE.get(kind, "a value that is allowed here").format(**context)
    return ValidationError(f"{path} must be {should_be.replace(chr(39), '')}.", path)


def path_of(location: tuple[int | str, ...], values: Any) -> str:
    """Return where a mistake is, as a client would write it: `messages[2].content`. values: the request."""
    path, tagged = "", False
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.startswith((BRANCH, "[key]")) or (not tagged and _is_tag(step, values)):
            tagged = True
            continue
        else:
            path += f".{shown_name(step)}" if path else shown_name(step)
        values, tagged = _inside(values, step), False
    return path or "body"


def _is_tag(step: str, value: Any) -> bool:
    """True if the step is the name of a union's branch, which is what the value itself says that it is."""
    return step in TAGS and isinstance(value, dict) and step in (value.get("role"), value.get("type"))


def _inside(value: Any, step: int | str) -> Any:
    try:
        return value[step]
    except (LookupError, TypeError):
        return None
