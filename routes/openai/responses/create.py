"""POST /v1/responses: from a request to the task that every protocol shares, and to the answer to come."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from edge.request_state import request_state
from engine.backend import Backend
from engine.text.prompt_size import check_unshown
from engine.types import ANY_OBJECT, ModelInfo
from routes.chat.answer_format import AnswerFormat
from routes.chat.models import find_model
from routes.chat.names import FieldNames
from routes.chat.shortening import shortened
from routes.chat.task import ChatTask, count_tokens, submit
from routes.chat.toolbox import Choice, NamedChoice, Toolbox
from routes.openai.responses import stored
from routes.openai.responses.bodies import ResponseObject
from routes.openai.responses.conversation import INPUT, conversation
from routes.openai.responses.namespaces import functions, namespaces
from routes.openai.responses.open_items import new_id
from routes.openai.responses.requests import LOGPROBS, AllowedTools, AnyText, NamedFunction, OfSchema, ResponseRequest
from routes.openai.responses.response import Answer
from routes.openai.responses.store import StoredResponse
from routes.openai.sampling import common_sampling
from routes.openai.tool_choice import some_of
from routes.sampling import default_sampling

NAMES = FieldNames(answer_format="text.format", reasoning="reasoning.effort", messages=INPUT)
# Levels of effort at which the model answers at once; so it does if none is given.
AT_ONCE = (None, "none", "minimal", "default")


def submit_response(body: ResponseRequest) -> Answer:
    """Submit a request; return the answer to come, which keeps nothing of the body but what it shows or stores of it.

    Raises the ServiceError that the request is refused with.
    """
    _, backend = find_model(body.model)
    previous = _previous(body)
    task = _task(body, previous, backend)
    draft, chat = stored.draft(previous, body.input) if body.store else None, None
    try:
        chat = submit(task)
        begun = _begun(body, backend, chat.run.model_id)
        request_state().observer.identified(begun["id"])
        return Answer(chat, begun, draft, namespaces(body.tools or ()))
    except BaseException:
        if chat is not None:
            chat.run.close()
        if draft is not None:
            draft.close()
        raise


def count_input(body: ResponseRequest) -> int:
    """Return how many tokens the input of a request has, with all that the model reads before it."""
    return count_tokens(_task(body, _previous(body), find_model(body.model)[1]))


def _previous(body: ResponseRequest) -> StoredResponse | None:
    return None if body.previous_response_id is None else stored.find_previous(body.previous_response_id)


def _task(body: ResponseRequest, previous: StoredResponse | None, backend: Backend) -> ChatTask:
    info = backend.info
    _check_repeated(body, info.max_model_len)
    said = conversation(body.instructions, stored.items_of(previous), body.input, info)
    tools, form = _toolbox(body, info), _answer_format(body)
    task = ChatTask(
        model=body.model,
        messages=said.messages,
        images=said.images,
        toolbox=tools,
        names=NAMES,
        answer_format=form,
        sampling=common_sampling(body, body.max_output_tokens),
        logprobs=_logprobs(body),
        # The effort is a hint, for which an answer of a fixed form has no room.
        thinking=form is None and not tools.forced and _effort(body) not in AT_ONCE,
    )
    return shortened(task, backend) if body.truncation == "auto" else task


def _check_repeated(body: ResponseRequest, max_model_len: int) -> None:
    """Raise ContextTooLong for what would not fit into a prompt: the response repeats it, read by the model or not."""
    check_unshown([tool.model_dump() for tool in body.tools or ()], "tools", max_model_len)
    check_unshown(None if body.text is None else body.text.model_dump(), "text.format", max_model_len)


def _toolbox(body: ResponseRequest, info: ModelInfo) -> Toolbox:
    given = functions(body.tools or (), info.max_model_len)
    choice: Choice | None
    match body.tool_choice:
        case NamedFunction():
            choice = NamedChoice(body.tool_choice.name)
        case AllowedTools():
            allowed = [tool.name for tool in body.tool_choice.tools]
            choice, given = body.tool_choice.mode, some_of(given, allowed, "tool_choice.tools")
        case _:
            choice = body.tool_choice
    return Toolbox(given, choice, body.parallel_tool_calls is not False, info, NAMES)


def _answer_format(body: ResponseRequest) -> AnswerFormat | None:
    asked = body.text.format if body.text is not None else None
    if asked is None or isinstance(asked, AnyText):
        return None
    field = "text.format.schema"
    if isinstance(asked, OfSchema):
        return AnswerFormat(field, schema=asked.schema_, strict=asked.strict)
    return AnswerFormat(field, schema=ANY_OBJECT)


def _logprobs(body: ResponseRequest) -> int | None:
    """Return the number of alternatives for each token, None for no log probabilities."""
    asked = LOGPROBS in (body.include or ()) or bool(body.top_logprobs)
    return (body.top_logprobs or 0) if asked else None


def _effort(body: ResponseRequest) -> str | None:
    return None if body.reasoning is None else body.reasoning.effort


def _begun(body: ResponseRequest, backend: Backend, model_id: str) -> ResponseObject:
    """Return the object before anything is generated, with the values in force."""
    default = default_sampling(backend)
    return ResponseObject(
        id=new_id("resp"),
        object="response",
        created_at=int(time.time()),
        completed_at=None,
        status="in_progress",
        background=False,
        error=None,
        incomplete_details=None,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=None,
        metadata=body.metadata or {},
        model=model_id,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        reasoning={"effort": _effort(body), "summary": None},
        service_tier="default",
        store=bool(body.store),
        temperature=default.temperature if body.temperature is None else body.temperature,
        text={"format": _shown_format(body), "verbosity": "medium"},
        tool_choice=_shown_choice(body),
        tools=[tool.model_dump() for tool in body.tools or ()],
        top_logprobs=body.top_logprobs or 0,
        top_p=default.top_p if body.top_p is None else body.top_p,
        truncation=body.truncation or "disabled",
        usage=None,
        request_id=request_state().request_id,
    )


def _shown_format(body: ResponseRequest) -> Mapping[str, Any]:
    asked = body.text.format if body.text is not None else None
    if not isinstance(asked, OfSchema):
        return {"type": "text" if asked is None else asked.type}
    return {"name": "response", **asked.model_dump(by_alias=True, exclude_none=True)}


def _shown_choice(body: ResponseRequest) -> str | dict[str, Any]:
    choice = body.tool_choice
    return choice.model_dump() if isinstance(choice, NamedFunction | AllowedTools) else choice or "auto"
