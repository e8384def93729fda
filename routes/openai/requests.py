"""The request bodies of /v1, as models that validate them and describe them in OpenAPI.

A field's description completes "<field> must be ...". `passed_over` holds what is accepted beside the fields here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, create_model, model_validator

from routes.chat.body_limits import MAX_STOPS, body_limits
from routes.chat.toolbox import MAX_TOOLS
from routes.json_text import JsonLimits
from routes.openai.base import OpenaiRequest
from routes.openai.guided import GuidedRequest
from routes.openai.history import CHAT
from routes.openai.messages import MAX_MESSAGES, Message
from routes.openai.structured_output import ResponseFormat
from routes.openai.tools import Tool, ToolChoice
from routes.passed_over import REQUEST, STREAM_OPTIONS, TEMPLATE, same_in_json
from routes.validation import BRANCH, conversation_of, few

MAX_CHOICES = 8
MAX_PROMPTS = 32
MAX_BIASES = 1024

# A bound: an answer has no more tokens than the settings and its context allow, whatever is asked for.
Length = Annotated[int, Field(ge=1)]
LENGTH = "an integer of at least 1"
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)]


def _one_or_more(value: Any) -> str:
    return f"{BRANCH}list" if isinstance(value, list) else f"{BRANCH}one"


OneOrMoreStops = Annotated[
    Annotated[Stop, Tag(f"{BRANCH}one")] | Annotated[Stops, Tag(f"{BRANCH}list")], Discriminator(_one_or_more)
]


class StreamOptions(OpenaiRequest):
    """include_usage: add a last event with the counts of tokens; continuous_usage_stats: and the counts so far to the
    others. Without a stream, the options mean nothing.
    """

    model_config = ConfigDict(extra="ignore")

    passed_over = STREAM_OPTIONS

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingRequest(OpenaiRequest, GuidedRequest):
    """The fields that both routes have. Absent sampling fields take the checkpoint's values."""

    passed_over = REQUEST
    as_absent: ClassVar[dict[str, Any]] = {
        "max_tokens": -1,
        "max_completion_tokens": -1,
        "logit_bias": [],
        "seed": -1,  # as with llama.cpp and vLLM: none
        "stop": "",
    }

    model: Annotated[str, Field(max_length=256, description="the id of a model, see /v1/models")]
    max_tokens: Length | None = Field(None, description=LENGTH)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="a number from 0 to 2")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="a number from 0 to 1")
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = Field(
        None, description="an integer from 1 to 1000000, or 0 or -1 for no limit"
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="a number from 0 to 1")
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(None, description="a number from -2 to 2")
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(None, description="a number from -2 to 2")
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = Field(
        None, description="a number from 0.01 to 10"
    )
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=MAX_BIASES),
            BeforeValidator(few(MAX_BIASES)),
        ]
        | None
    ) = Field(None, description=f"an object of at most {MAX_BIASES} token ids, each with a number from -100 to 100")
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(None, description="an integer of 64 bits")
    stop: OneOrMoreStops | None = Field(
        None, description=f"a text, or at most {MAX_STOPS} texts, of 1 to 256 characters"
    )
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None, description=f"an integer from 1 to {MAX_CHOICES}"
    )
    stream: bool | None = Field(None, description="true or false")
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = Field(None, description="true or false")
    min_tokens: Annotated[int, Field(ge=0)] | None = Field(None, description="an integer of at least 0")
    return_token_ids: bool | None = Field(None, description="true or false")
    return_tokens_as_token_ids: bool | None = Field(None, description="true or false")

    @model_validator(mode="before")
    @classmethod
    def _without_best_of(cls, values: Any) -> Any:
        """Pass over the choice of the best of as many answers as are shown."""
        if isinstance(values, dict) and "best_of" in values and same_in_json(values["best_of"], values.get("n")):
            return {name: value for name, value in values.items() if name != "best_of"}
        return values


class ChatTemplateKwargs(OpenaiRequest):
    """enable_thinking: let the model reason before it answers; off by default. Other variables are not used."""

    model_config = ConfigDict(extra="ignore")

    passed_over = TEMPLATE

    enable_thinking: bool | None = None


class PromptRequest(OpenaiRequest):
    """How a conversation becomes a prompt. continue_final_message: the last message, the assistant's, is continued."""

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None
    add_generation_prompt: bool | None = Field(None, description="true or false")
    continue_final_message: bool | None = Field(None, description="true or false")


Messages = Annotated[
    list[Message],
    Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
    BeforeValidator(CHAT.readable),
    BeforeValidator(conversation_of(MAX_MESSAGES)),
]


class ChatRequest(PromptRequest, SamplingRequest):
    """A conversation to answer. Beside these fields, hints and values that change no answer are passed over."""

    messages: Messages
    max_completion_tokens: Length | None = Field(None, description=LENGTH)
    logprobs: bool | None = Field(None, description="true or false")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="an integer from 0 to 20")
    response_format: ResponseFormat | None = None
    tool_choice: ToolChoice | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "default"] | None = Field(
        None,
        description='"low", "medium", "high", "xhigh" or "max" for reasoning, "none", "minimal" or "default" for an '
        "answer at once",
    )
    parallel_tool_calls: bool | None = None


Number = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Number], Field(min_length=1, fail_fast=True)]


def _kind_of_prompt(value: Any) -> str:
    """Tell a text, a list of texts, the tokens of one prompt and those of several apart by the first element."""
    if not isinstance(value, list):
        return f"{BRANCH}text"
    first = value[0] if value else ""
    if isinstance(first, list):
        return f"{BRANCH}many"
    return f"{BRANCH}texts" if isinstance(first, str) else f"{BRANCH}tokens"


Prompts = Annotated[
    Annotated[str, Field(min_length=1), Tag(f"{BRANCH}text")]
    | Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True),
        Tag(f"{BRANCH}texts"),
    ]
    | Annotated[Tokens, Tag(f"{BRANCH}tokens")]
    | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag(f"{BRANCH}many")],
    Discriminator(_kind_of_prompt),
]


class CompletionRequest(SamplingRequest):
    """Texts to continue, without a chat template. Beside these fields, what changes no answer is passed over.

    echo: show the prompt in front of each continuation, and its tokens in front of the log probabilities.
    """

    as_absent = SamplingRequest.as_absent | {"logprobs": False}

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0)] | None = Field(None, description="an integer of at least 1, or 0 with echo")
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = Field(None, description="an integer from 0 to 5")
    echo: bool | None = Field(None, description="true or false")


def json_limits(max_model_len: int) -> JsonLimits:
    """Return what a body may have, as `body_limits` does: every prompt as ids, or the text of one."""
    return body_limits(max_model_len, MAX_PROMPTS)


@dataclass(frozen=True, slots=True)
class OpenaiModels:
    """The models that validate requests."""

    chat: type[ChatRequest]
    completion: type[CompletionRequest]


@cache
def openai_models() -> OpenaiModels:
    """Return the models by the names that OpenAPI gives them; building them takes a while."""
    return OpenaiModels(
        chat=create_model("ChatCompletionRequest", __base__=ChatRequest),
        completion=create_model("CompletionRequest", __base__=CompletionRequest),
    )
