"""POST /v1/chat/completions: one conversation, one or more answers, whole or streamed."""

from __future__ import annotations

from engine.errors import ValidationError
from routes.chat.models import find_model
from routes.chat.names import FieldNames
from routes.chat.task import ChatRun, ChatTask, submit
from routes.openai.chat_response import ChatResponse
from routes.openai.conversation import conversation
from routes.openai.guided import guided_format
from routes.openai.requests import ChatRequest, PromptRequest
from routes.openai.sampling import sampling
from routes.openai.structured_output import answer_format
from routes.openai.tools import toolbox

# Values of reasoning_effort that switch reasoning on.
REASONING_EFFORTS = ("low", "medium", "high", "xhigh", "max")
NAMES = FieldNames(answer_format="response_format", reasoning="chat_template_kwargs.enable_thinking")


def submit_chat(body: ChatRequest) -> tuple[ChatRun, ChatResponse]:
    """Submit a conversation; return its run and the response to come, which keep nothing of the body.

    Raises the ServiceError that the request is refused with.
    """
    run = submit(_task(body))
    return run, ChatResponse(run, body)


def template_thinking(body: PromptRequest) -> bool | None:
    """Return the template's switch of reasoning, None where it is absent."""
    return None if body.chat_template_kwargs is None else body.chat_template_kwargs.enable_thinking


def _thinking(body: ChatRequest, free: bool) -> bool:
    """Return whether the model may reason first. free: whether its answers have no fixed form and have not begun.

    The template's switch is an order, the effort a hint, which other answers leave no room for.
    """
    switch = template_thinking(body)
    return free and body.reasoning_effort in REASONING_EFFORTS if switch is None else switch


def continues(body: PromptRequest) -> bool:
    """Return whether the last message is continued. Raises ValidationError for what that cannot be combined with."""
    if not body.continue_final_message:
        return False
    if body.add_generation_prompt:
        raise ValidationError(
            "continue_final_message and add_generation_prompt cannot both be true.", "continue_final_message"
        )
    if template_thinking(body):
        raise ValidationError(f"{NAMES.reasoning} cannot be combined with continue_final_message.", NAMES.reasoning)
    return True


def _task(body: ChatRequest) -> ChatTask:
    _, backend = find_model(body.model)
    tools = toolbox(body.tools, body.tool_choice, body.parallel_tool_calls, backend.info, NAMES)
    said, form = conversation(body.messages, backend.info), guided_format(body, answer_format(body.response_format))
    begun = continues(body)
    return ChatTask(
        model=body.model,
        messages=said.messages,
        images=said.images,
        toolbox=tools,
        names=NAMES,
        answer_format=form,
        sampling=sampling(body),
        n=body.n or 1,
        logprobs=_logprobs(body),
        thinking=_thinking(body, free=form is None and not tools.forced and not begun),
        continues=begun,
        opens_answer=body.add_generation_prompt is not False,
    )


def _logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise ValidationError("top_logprobs needs logprobs to be true.", "top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None
