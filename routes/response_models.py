"""The shapes of our answers, for the description of the API; tests hold the answers themselves to them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """A part of an answer; all its fields are always there unless they may be absent."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class LanguageForm(Shape):
    """The language a visitor has chosen, and the page to lead back to."""

    page: str
    language: str


class SignInForm(Shape):
    """The operator's key."""

    key: str


class ApiFailure(Shape):
    """Any failure under /api."""

    error: str = Field(description="A code for programs.")
    message: str = Field(description="A plain sentence.")
    request_id: str


class OpenaiFailureDetails(Shape):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None = Field(description="The field to mend, where one is to blame.")
    code: str | None


class OpenaiFailure(Shape):
    """Any failure under /v1."""

    error: OpenaiFailureDetails


class GeneratedText(Shape):
    """A text and the tokens counted."""

    text: str
    generated_tokens: int
    input_tokens: int


class Figures(Shape):
    """Times in seconds."""

    generation_time: float
    total_time: float
    tokens_per_second: float
    time_to_first_token: float | None = Field(default=None, description="In a stream; null where no token was made.")


class GenerationAnswer(Shape):
    """One answer. Streamed, it is the last event, after events `{"text": "..."}` with the text as it comes."""

    success: Literal[True]
    data: GeneratedText
    metrics: Figures
    request_id: str


class Health(Shape):
    """The process answers."""

    status: Literal["healthy"]
    uptime_seconds: int


class Readiness(BaseModel):
    """Whether every model takes requests; with status 503 there is a `reason`, and `progress` while models load."""

    status: str
    cuda_available: bool
    gpu_memory_gb: str
    models: dict[str, Any]


class Liveness(Shape):
    """Whether the process can go on; `reason` says why not."""

    status: Literal["alive", "restart_needed"]
    reason: str | None = None


class JsonFigures(BaseModel):
    """The figures of the service, times in UTC."""

    timestamp: str
    uptime_seconds: int
    system: dict[str, str]
    gpu: dict[str, Any]
    application: dict[str, int | str]


class ResetAnswer(Shape):
    """The figures begin again."""

    success: Literal[True]
    message: str
    request_id: str


class ModelEntry(Shape):
    """A model that can be asked; root: what is really loaded."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int


class ModelList(Shape):
    """All models."""

    object: Literal["list"]
    data: list[ModelEntry]


class PromptTokensDetails(Shape):
    """Tokens of the prompt that were computed before."""

    cached_tokens: int


class Usage(Shape):
    """The tokens counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CalledFunction(Shape):
    """The function and its arguments, a JSON text."""

    name: str
    arguments: str


class ToolCall(Shape):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Shape):
    """What the model says; reasoning_content only where reasoning was asked for, tool_calls only where it calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Shape):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Shape):
    """The answers to a conversation. Streamed: events of `chat.completion.chunk`, then `[DONE]`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(Shape):
    """One of the continuations."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(Shape):
    """The continuations. Streamed: events of the same object with a part of the text, then `[DONE]`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
