"""POST /v1/messages and /v1/messages/count_tokens: from a request to a chat task."""

from __future__ import annotations

from engine.errors import ValidationError
from routes.anthropic.answer import MessageResponse
from routes.anthropic.conversation import continues, conversation, loaded_tools
from routes.anthropic.requests import CountTokensRequest, MessagesRequest
from routes.anthropic.tools import toolbox
from routes.chat.answer_format import AnswerFormat
from routes.chat.models import find_model
from routes.chat.names import FieldNames
from routes.chat.sampling import Sampling
from routes.chat.task import ChatRun, ChatTask, count_tokens, submit

NAMES = FieldNames(answer_format="output_config.format", reasoning="thinking")


def submit_message(body: MessagesRequest) -> tuple[ChatRun, MessageResponse]:
    """Submit a conversation; return its run and the response to come, which keep nothing of the body.

    Raises the ServiceError that the request is refused with.
    """
    sampling = Sampling(
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=tuple(body.stop_sequences or ()),
    )
    chat = submit(_task(body, sampling))
    return chat, MessageResponse(chat, body.thinking is not None and body.thinking.display == "omitted")


def count_message(body: CountTokensRequest) -> int:
    """Return how many tokens the prompt of a conversation has. Raises the ServiceError that it is refused with."""
    return count_tokens(_task(body, Sampling()))


def _task(body: CountTokensRequest, sampling: Sampling) -> ChatTask:
    info = find_model(body.model)[1].info
    tools = toolbox(body.tools, body.tool_choice, info, NAMES, loaded_tools(body.messages))
    said = conversation(body.system, body.messages, info)
    form, begun = _answer_format(body), continues(body.messages)
    return ChatTask(
        model=body.model,
        messages=said.messages,
        images=said.images,
        toolbox=tools,
        names=NAMES,
        answer_format=form,
        sampling=sampling,
        thinking=_thinking(body, begun, fixed=tools.forced or form is not None),
        continues=begun,
    )


def _answer_format(body: CountTokensRequest) -> AnswerFormat | None:
    """Return the form of the answer. `output_format` is the older name of `output_config.format`."""
    nested = None if body.output_config is None else body.output_config.format
    if nested is not None and body.output_format is not None:
        raise ValidationError("output_format and output_config.format contradict each other.", "output_format")
    form, field = (nested, "output_config.format") if nested is not None else (body.output_format, "output_format")
    if form is None:
        return None
    if continues(body.messages):
        raise ValidationError(f"{field} cannot be combined with an answer that has begun.", field)
    return AnswerFormat(f"{field}.schema", schema=form.schema_)


def _thinking(body: CountTokensRequest, begun: bool, fixed: bool) -> bool:
    """Return whether the model may reason first. Raises ValidationError where it must and cannot."""
    kind = None if body.thinking is None else body.thinking.type
    if kind == "enabled" and begun:
        raise ValidationError("thinking cannot be combined with an answer that has begun.", "thinking")
    return kind == "enabled" or (kind in ("adaptive", "between_tools") and not begun and not fixed)
