"""The bases of the parts of OpenAI's requests."""

from __future__ import annotations

from pydantic import ConfigDict

from routes.passed_over import HISTORY
from routes.protocol_request import ProtocolRequest


class OpenaiRequest(ProtocolRequest):
    """A part of a request."""

    union_tags = frozenset(
        {
            *("system", "developer", "user", "assistant", "tool"),
            *("text", "input_text", "output_text", "image_url", "input_image", "refusal", "file", "input_file"),
            *("thinking", "reasoning", "redacted_thinking"),
            *("json_object", "json_schema"),
        }
    )


class HistoryPart(OpenaiRequest):
    """A part of the conversation. What a client's library adds to its messages is passed over."""

    model_config = ConfigDict(extra="ignore")

    passed_over = HISTORY
