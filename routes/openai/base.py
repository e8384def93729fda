"""The base of every part of a request of /v1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, model_validator

from routes.passed_over import HISTORY
from routes.validation import RequestModel


class OpenaiRequest(RequestModel):
    """A part of a request. OpenAI's clients nest objects, and send null for a field that is absent.

    as_absent: further values that mean the same, by field.
    """

    names_parts = True
    union_tags = frozenset(
        {
            *("system", "developer", "user", "assistant", "tool"),
            *("text", "input_text", "output_text", "image_url", "input_image", "refusal"),
            *("thinking", "reasoning", "redacted_thinking"),
            *("json_object", "json_schema"),
        }
    )
    as_absent: ClassVar[Mapping[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        absent = cls.as_absent
        return {
            name: value
            for name, value in values.items()
            if value is not None and not (name in absent and value == absent[name])
        }


class HistoryPart(OpenaiRequest):
    """A part of the conversation. What a client's library adds to its messages is passed over."""

    model_config = ConfigDict(extra="ignore")

    passed_over = HISTORY
