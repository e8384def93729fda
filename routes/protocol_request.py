"""The base of every part of a request of /v1, whatever its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator

from routes.passed_over import same_in_json
from routes.validation import RequestModel


class ProtocolRequest(RequestModel):
    """A part of a request. Clients of these protocols nest objects, and send null for a field that is absent.

    as_absent: further values that mean the same, by field.
    """

    names_parts = True
    as_absent: ClassVar[Mapping[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        absent = cls.as_absent
        if not isinstance(values, dict) or not (absent or None in values.values()):
            return values
        return {
            name: value
            for name, value in values.items()
            if value is not None and not (name in absent and same_in_json(value, absent[name]))
        }
