"""How many tokens a text may have where no tokenizer of its model is at hand: an estimate that rather is too high.

The vocabularies of today's models have about 4 bytes of English and 5 of Russian text in a token, fewer of code and
numbers. What the server counts replaces the estimate as soon as it is told.
"""

from __future__ import annotations

import json

from engine.types import ChatPrompt, Prompt, TextPrompt

BYTES_A_TOKEN = 3
MOST_BYTES_A_TOKEN = 5  # with which an estimate is rather too low
MESSAGE_TOKENS = 8  # around each message of a chat template
PIXELS_A_TOKEN = 28 * 28  # of Qwen2.5-VL; others take fewer tokens for an image
IMAGE_TOKENS = 1280  # the most that an image is scaled to, at such servers' defaults


def text_tokens(text: str, bytes_a_token: int = BYTES_A_TOKEN) -> int:
    """Return about how many tokens a text has."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // bytes_a_token)


def prompt_tokens(prompt: Prompt, bytes_a_token: int = BYTES_A_TOKEN) -> int:
    """Return about how many tokens a prompt has, images included."""
    if isinstance(prompt, TextPrompt):
        return text_tokens(prompt.text, bytes_a_token)
    if not isinstance(prompt, ChatPrompt):
        return len(prompt.token_ids)
    said = json.dumps([prompt.messages, prompt.tools], ensure_ascii=False) if prompt.tools else ""
    texts = said or "".join(_texts(prompt))
    images = sum(min(IMAGE_TOKENS, -(-one.width * one.height // PIXELS_A_TOKEN)) for one in prompt.images)
    return text_tokens(texts, bytes_a_token) + MESSAGE_TOKENS * (len(prompt.messages) + 1) + images


def _texts(prompt: ChatPrompt) -> list[str]:
    found = []
    for message in prompt.messages:
        content = message["content"]
        found += [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        found += [json.dumps(message["tool_calls"], ensure_ascii=False)] if "tool_calls" in message else []
    return found
