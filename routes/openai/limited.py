"""The requests of /v1 with this service's limits in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, create_model

from config import Settings
from routes.openai.requests import ChatRequest, CompletionRequest


@dataclass(frozen=True, slots=True)
class OpenaiModels:
    """The models that validate requests."""

    chat: type[ChatRequest]
    completion: type[CompletionRequest]


def openai_models(settings: Settings) -> OpenaiModels:
    """Return the models that hold requests to the settings' limits."""
    most = settings.generation.max_tokens_limit
    length: Any = (
        Annotated[int, Field(ge=1, le=most)] | None,
        Field(None, description=f"an integer from 1 to {most}"),
    )
    return OpenaiModels(
        chat=create_model(
            "ChatCompletionRequest", __base__=ChatRequest, max_tokens=length, max_completion_tokens=length
        ),
        completion=create_model("CompletionRequest", __base__=CompletionRequest, max_tokens=length),
    )
