"""What is sent again where a server refuses something that no client has asked for.

Servers of one kind differ in what they take beside a plain chat: vLLM refuses `chat_template_kwargs` for models whose
tokenizer has no template. And how many tokens a prompt leaves of the context is an estimate, so a server may find that
more were asked for than are left. Neither is the client's mistake.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.types import ChatPrompt, GenerationRequest

# Fields that the service adds by itself, and the words by which a refusal names each, in lower case.
OWN_FIELDS: Mapping[str, tuple[str, ...]] = {
    "chat_template_kwargs": ("chat_template", "enable_thinking"),
    "stream_options": ("stream_options", "include_usage"),
}
MOST = 3  # times that one request is sent again like this
# "maximum context length is 4096 tokens", "maximum context length of 4096 tokens"
CONTEXT = re.compile(r"context length (?:is|of) (\d{1,9})")
# "3375 input tokens", "3375 in the messages", "3375 tokens from the input", "3375 tokens in your prompt"
PROMPT = re.compile(
    r"(\d{1,9}) (?:tokens )?(?:input tokens|in the messages|from the input|in your prompt|in the input)"
)


def refused_fields(request: GenerationRequest, said: str) -> frozenset[str]:
    """Return the fields that the service added to a request and that a refusal names. said: it, in lower case."""
    prompt = request.prompt
    thinks = isinstance(prompt, ChatPrompt) and prompt.thinking  # the client has asked for that
    return frozenset(
        name
        for name, words in OWN_FIELDS.items()
        if any(word in said for word in words) and not (thinks and name == "chat_template_kwargs")
    )


def room_left(said: str) -> int | None:
    """Return how many tokens a prompt leaves of the context as a refusal says it, None where it does not.

    said: it, in lower case.
    """
    context, prompt = CONTEXT.search(said), PROMPT.search(said)
    return None if context is None or prompt is None else int(context[1]) - int(prompt[1])
