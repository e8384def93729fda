"""The bodies of answers of /api/v1 and /v1, as typed dictionaries: what is sent is what OpenAPI describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired

from pydantic import Field

from edge.bodies import Body, CheckpointIdentity, Cost

FinishReason = Literal["stop", "length"]
ChatFinishReason = Literal["stop", "length", "tool_calls"]
Fingerprint = Annotated[
    str, Field(description="It changes with the checkpoint, its dtype and the version of the service.")
]


class GeneratedText(Body):
    """A text and its tokens."""

    text: str
    generated_tokens: int
    input_tokens: int
    dropped_turns: NotRequired[
        Annotated[int, Field(description="With `history`: the oldest turns, left out because they did not fit.")]
    ]
    finish_reason: NotRequired[
        Annotated[FinishReason, Field(description="In a stream: `length` if the answer reached its maximum length.")]
    ]


class Figures(Body):
    """Times in seconds."""

    generation_time: float
    total_time: float
    tokens_per_second: float
    time_to_first_token: NotRequired[
        Annotated[float | None, Field(description="In a stream; null if no token was generated.")]
    ]
    cost: NotRequired[Cost]


class GenerationAnswer(Body):
    """One answer. Streamed, it is the last event, after events `{"text": "..."}` with the text as it comes."""

    success: Literal[True]
    data: GeneratedText
    metrics: Figures
    request_id: str


class ModelEntry(Body):
    """A model that requests can name, as clients of OpenAI and of Anthropic read it.

    root: what answers, as `X-Model` names it. The rest: once it is loaded.
    """

    id: str
    object: Literal["model"]
    type: Literal["model"]
    display_name: str
    created: int
    created_at: str
    lifecycle: Literal["active"]
    owned_by: str
    root: str
    max_model_len: NotRequired[int]
    checkpoint: NotRequired[CheckpointIdentity]
    system_fingerprint: NotRequired[Fingerprint]


class ModelList(Body):
    """All models, on one page; first_id and last_id are those of its entries."""

    object: Literal["list"]
    data: list[ModelEntry]
    has_more: bool
    first_id: str | None
    last_id: str | None


class PromptTokensDetails(Body):
    """Tokens of the prompt whose keys and values came from the prefix cache."""

    cached_tokens: int


class CompletionTokensDetails(Body):
    """Tokens of the answers that are reasoning."""

    reasoning_tokens: int


class Usage(Body):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: NotRequired[CompletionTokensDetails]
    cost: NotRequired[Cost]


class TokenLogprob(Body):
    """A token and its log probability; bytes: what it adds to the text, which may be part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenTokenLogprob(TokenLogprob):
    """A token of the answer, with the most likely ones in its position."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Body):
    """Log probabilities of the tokens of an answer."""

    content: Sequence[ChosenTokenLogprob]
    refusal: None


class CalledFunction(Body):
    """The function and its arguments, a JSON text."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Body):
    """What the model says. reasoning_content: only with reasoning switched on; tool_calls: only if there are any."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(Body):
    """One of the answers. stop_reason: the stop string that ended it, if one did.

    token_ids: its tokens, with `return_token_ids`.
    """

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason
    stop_reason: NotRequired[str]
    token_ids: NotRequired[list[int]]


class ChatCompletion(Body):
    """The answers to a conversation. Streamed: events of `chat.completion.chunk`, then `[DONE]`.

    prompt_token_ids: with `return_token_ids`.
    """

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: NotRequired[Fingerprint]
    prompt_token_ids: NotRequired[list[int]]


class StoppedStream(Body):
    """A stream that was stopped."""

    success: Literal[True]


class FeedbackAnswer(Body):
    """counted: false where the answer had been rated before; the first rating counts."""

    success: bool
    counted: bool


class Tokenization(Body):
    """The tokens of a prompt. token_strs: their texts, if they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenization(Body):
    """The text of tokens."""

    prompt: str


class TextLogprobs(Body):
    """Log probabilities of the tokens of a continuation; text_offset: where each begins, in characters.

    With `echo` the prompt's come first; its first token has none.
    """

    tokens: Sequence[str]
    token_logprobs: Sequence[float | None]
    top_logprobs: Sequence[dict[str, float] | None]
    text_offset: Sequence[int]


class TextChoice(Body):
    """One of the continuations. stop_reason: as in a chat.

    token_ids, prompt_token_ids: its tokens and its prompt's, with `return_token_ids`.
    """

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    stop_reason: NotRequired[str]
    token_ids: NotRequired[list[int]]
    prompt_token_ids: NotRequired[list[int]]


class TextCompletion(Body):
    """The continuations. Streamed: events of the same object with a part of the text, then `[DONE]`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    system_fingerprint: NotRequired[Fingerprint]
