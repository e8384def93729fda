"""POST /v1/chat/completions: one conversation, one or more answers, whole or as they come."""

from __future__ import annotations

from flask import Response, jsonify

from engine.backend import Backend
from engine.errors import ValidationError
from engine.types import ChatPrompt
from routes.generation_run import Run
from routes.openai import catalogue, structured_output
from routes.openai.chat_shape import ChatShape
from routes.openai.messages import Conversation
from routes.openai.requests import ChatRequest
from routes.openai.sampling import check_stream_options, choices
from routes.openai.tools import Toolbox
from routes.services import services
from routes.sse import EventStream

# Efforts at which the model may reason before it answers.
REASONING = ("low", "medium", "high", "xhigh")


def answer(asked: ChatRequest) -> Response:
    """Answer a conversation. Raises the typed error that it is refused with or ends with."""
    name, backend = catalogue.find(asked.model)
    check_stream_options(asked)
    toolbox = Toolbox(asked.tools, asked.tool_choice, backend.info)
    prompt = _prompt(asked, backend, toolbox)
    logprobs = _logprobs(asked)
    run = Run(
        name,
        backend,
        [(prompt, params) for params in choices(backend, asked, logprobs, _masks(asked, toolbox, backend))],
    )
    shape = ChatShape(run, asked, toolbox.names, thinks(asked))
    if asked.stream:
        return EventStream(shape.events(), run.close).response()
    return jsonify(shape.body(run.results()))


def thinks(asked: ChatRequest) -> bool:
    """Return whether the model may reason first: as the template's own switch says, else by the effort asked for."""
    switch = asked.chat_template_kwargs.enable_thinking if asked.chat_template_kwargs is not None else None
    return asked.reasoning_effort in REASONING if switch is None else switch


def _prompt(asked: ChatRequest, backend: Backend, toolbox: Toolbox) -> ChatPrompt:
    conversation = Conversation(asked.messages, backend.info)
    return ChatPrompt(conversation.messages, tuple(conversation.images), toolbox.shown, thinks(asked))


def _logprobs(asked: ChatRequest) -> int | None:
    if asked.top_logprobs is not None and not asked.logprobs:
        raise ValidationError("top_logprobs needs logprobs to be true.", "top_logprobs")
    return (asked.top_logprobs or 0) if asked.logprobs else None


def _masks(asked: ChatRequest, toolbox: Toolbox, backend: Backend) -> structured_output.NewMask:
    bound = toolbox.forced or not isinstance(asked.response_format, structured_output.TextFormat | None)
    if bound and thinks(asked):
        raise ValidationError("Reasoning cannot be combined with an answer of a fixed form.", "reasoning_effort")
    if bound and asked.ignore_eos:
        raise ValidationError("ignore_eos cannot be combined with an answer of a fixed form.", "ignore_eos")
    return structured_output.masks(asked.response_format, toolbox, backend, services().grammars)
