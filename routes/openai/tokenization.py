"""POST /v1/tokenize and /v1/detokenize, with the names that vLLM gives their fields: nothing is generated."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from engine.errors import ValidationError
from engine.types import TextPrompt
from routes.chat.lengths import prompt_in
from routes.chat.models import find_model
from routes.chat.task import ChatTask, prompt_ids
from routes.generation_run import detokenized, tokenized
from routes.openai.base import OpenaiRequest
from routes.openai.chat import NAMES, continues, template_thinking
from routes.openai.conversation import conversation
from routes.openai.requests import Messages, Number, PromptRequest
from routes.openai.tools import toolbox
from routes.passed_over import REQUEST
from routes.response_models import Detokenization, Tokenization

MODEL = "the id of a model, see /v1/models"


class TokenizationRequest(PromptRequest):
    """A text (`prompt`), or a conversation (`messages`) as it would be answered. return_token_strs: and their texts."""

    passed_over = REQUEST

    model: Annotated[str, Field(max_length=256, description=MODEL)]
    prompt: str | None = Field(None, description="a text")
    messages: Messages | None = None
    return_token_strs: bool | None = Field(None, description="true or false")


class DetokenizationRequest(OpenaiRequest):
    """Tokens whose text is asked for."""

    passed_over = REQUEST

    model: Annotated[str, Field(max_length=256, description=MODEL)]
    tokens: Annotated[list[Number], Field(fail_fast=True)]


def tokens_of(body: TokenizationRequest) -> Tokenization:
    """Return the tokens of a prompt. Raises the ServiceError that the request is refused with."""
    _, backend = find_model(body.model)
    token_ids = _token_ids(body)
    strings = list(detokenized(backend, token_ids).tokens) if body.return_token_strs else None
    return Tokenization(
        count=len(token_ids), max_model_len=backend.info.max_model_len, tokens=token_ids, token_strs=strings
    )


def text_of(body: DetokenizationRequest) -> Detokenization:
    """Return the text of tokens. Raises the ServiceError that the request is refused with."""
    _, backend = find_model(body.model)
    return Detokenization(prompt=detokenized(backend, body.tokens).text)


def _token_ids(body: TokenizationRequest) -> list[int]:
    _, backend = find_model(body.model)
    if body.messages is not None:
        if body.prompt is not None:
            raise ValidationError("prompt and messages cannot be combined.", "prompt")
        return prompt_ids(_task(body))
    if body.prompt is None:
        raise ValidationError("prompt or messages is required.", "prompt")
    with prompt_in("prompt"):
        return tokenized(backend, TextPrompt(body.prompt)) if body.prompt else []


def _task(body: TokenizationRequest) -> ChatTask:
    info = find_model(body.model)[1].info
    said = conversation(body.messages or (), info)
    return ChatTask(
        model=body.model,
        messages=said.messages,
        images=said.images,
        toolbox=toolbox(body.tools, None, None, info, NAMES),
        names=NAMES,
        thinking=bool(template_thinking(body)),
        continues=continues(body),
        opens_answer=body.add_generation_prompt is not False,
    )
