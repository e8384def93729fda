"""POST /v1/chat/completions: one conversation, one or more answers, whole or streamed."""

from __future__ import annotations

from edge import caller
from engine.backend import Backend
from engine.errors import ValidationError
from engine.types import ChatPrompt
from routes.generation_run import Run, watching
from routes.openai import catalogue, structured_output
from routes.openai.chat_response import ChatResponse
from routes.openai.messages import Conversation
from routes.openai.requests import ChatRequest
from routes.openai.sampling import check_stream_options, choices
from routes.openai.tools import Toolbox
from routes.services import services

# Values of reasoning_effort that switch reasoning on.
REASONING_EFFORTS = ("low", "medium", "high", "xhigh")


def submit_chat(body: ChatRequest) -> tuple[Run, ChatResponse]:
    """Submit a conversation; return its run and the response to come, which keep nothing of the body.

    Raises the ServiceError that the request is refused with.
    """
    name, backend = catalogue.find(body.model)
    check_stream_options(body)
    toolbox = Toolbox(body.tools, body.tool_choice, backend.info)
    prompt = _prompt(body, backend, toolbox)
    logprobs = _logprobs(body)
    params = choices(backend, body, logprobs, _new_mask(body, toolbox, backend))
    run = Run(name, backend, [(prompt, one) for one in params])
    return run, ChatResponse(run, body, toolbox.names, reasoning_enabled(body))


def reasoning_enabled(body: ChatRequest) -> bool:
    """Return whether the model may reason first; the template's switch takes precedence over the effort."""
    switch = body.chat_template_kwargs.enable_thinking if body.chat_template_kwargs is not None else None
    return body.reasoning_effort in REASONING_EFFORTS if switch is None else switch


def _prompt(body: ChatRequest, backend: Backend, toolbox: Toolbox) -> ChatPrompt:
    conversation = Conversation(body.messages, backend.info)
    return ChatPrompt(conversation.messages, tuple(conversation.images), toolbox.shown, reasoning_enabled(body))


def _logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise ValidationError("top_logprobs needs logprobs to be true.", "top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _new_mask(body: ChatRequest, toolbox: Toolbox, backend: Backend) -> structured_output.NewMask:
    constrained = toolbox.forced or not isinstance(body.response_format, structured_output.TextFormat | None)
    if constrained and reasoning_enabled(body):
        raise ValidationError("Reasoning cannot be combined with an answer of a fixed form.", "reasoning_effort")
    if constrained and body.ignore_eos:
        raise ValidationError("ignore_eos cannot be combined with an answer of a fixed form.", "ignore_eos")
    shared = services().settings.engine.prefix_sharing == "all"
    with watching() as wanted:
        owner = "" if shared else caller.budget_key(wanted.client)
        return structured_output.new_mask(body.response_format, toolbox, backend, services().grammars, wanted, owner)
