"""What is sent again where a server refuses something that no client has asked for.

Servers of one kind differ in what they take beside a plain chat: vLLM refuses `chat_template_kwargs` for models whose
tokenizer has no template. How many tokens a prompt leaves of the context is an estimate, so a server may find that more
were asked for than are left. And a provider's models have bounds of their own for an answer. None of this is the
client's mistake.
"""

from __future__ import annotations

import re
from collections.abc import Collection

LENGTH = "max_completion_tokens"  # which older servers call max_tokens; it is sent by that name where it is left out
# Fields that the service adds by itself, and the words by which a refusal names each, in lower case.
WORDS = {
    "chat_template_kwargs": ("chat_template", "enable_thinking"),
    "stream_options": ("stream_options", "include_usage"),
    LENGTH: (LENGTH,),
}
OWN_FIELDS = WORDS.keys()
MOST = 3  # times that one request is sent again like this
# "maximum context length is 4096 tokens", "maximum context length of 4096 tokens", "context length is only 4096"
CONTEXT = re.compile(r"context length (?:is|of)(?: only)? (\d{1,9})")
# "3375 input tokens", "3375 in the messages", "3375 tokens from the input", "3375 tokens in your prompt". A prompt of
# "at least 3375 input tokens" is larger.
PROMPT = re.compile(
    r"(at least )?\b(\d{1,9}) (?:tokens )?(?:input tokens|in the messages|from the input|in your prompt|in the input)"
)
# "supports at most 1000 completion tokens", "integer above maximum value. Expected a value <= 1000" (OpenAI), "4000 >
# 1000, which is the maximum allowed number of output tokens" (Anthropic), "valid range of max_tokens is [1, 1000]"
# (DeepSeek), "`max_tokens` must be less than or equal to `1000`" (Groq), "supported range is from 1 (inclusive) to 1001
# (exclusive)" (Gemini).
MOST_TAKEN = re.compile(
    r"supports at most (\d{1,9}) completion tokens"
    r"|> (\d{1,9}), which is the maximum allowed number of output tokens"
    r"|valid range of max_(?:completion_)?tokens is \[\d{1,9}, ?(\d{1,9})\]"
    r"|max_(?:completion_)?tokens[`'\"]? must be less than or equal to [`'\"]?(\d{1,9})"
    r"|max_(?:completion_)?tokens[`'\"]?: integer above maximum value. expected a value <= (\d{1,9})"
    r"|maxoutputtokens value of \d{1,9} but the supported range is from 1 \(inclusive\) to (\d{1,9}) \(exclusive\)"
)


def refused_field(own: Collection[str], said: str) -> str | None:
    """Return the field that a refusal names, of those that the service has added. said: it, in lower case."""
    return next((name for name in sorted(own) if any(word in said for word in WORDS[name])), None)


def room_left(said: str) -> int | None:
    """Return how many tokens a prompt leaves of the context as a refusal says it, None where it does not.

    said: it, in lower case.
    """
    context, prompt = CONTEXT.search(said), PROMPT.search(said)
    return None if context is None or prompt is None or prompt[1] else int(context[1]) - int(prompt[2])


def most_taken(said: str) -> int | None:
    """Return how many tokens an answer may have at most as a refusal says it, None where it does not.

    said: it, in lower case.
    """
    found = MOST_TAKEN.search(said)
    if found is None:
        return None
    return int(found[found.lastindex or 0]) - (found.lastindex == MOST_TAKEN.groups)  # the last is exclusive
