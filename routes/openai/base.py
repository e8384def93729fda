"""The base of every part of a request of /v1."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from routes.validation import RequestModel


class OpenaiRequest(RequestModel):
    """A part of a request. OpenAI's clients nest objects, and send null for a field that is absent."""

    names_parts = True
    union_tags = frozenset(
        {
            *("system", "developer", "user", "assistant", "tool"),
            *("text", "image_url", "refusal"),
            *("json_object", "json_schema"),
        }
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None or name not in known}
