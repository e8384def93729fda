"""Prepares prompts: renders the chat template, tokenizes and adds images, in the caller's thread.

The objects here are immutable after construction, so any number of threads can prepare prompts at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from engine.errors import Unsupported, ValidationError
from engine.text.processor import ImageInputs, ImagePreparer, Undecodable
from engine.text.prompt_size import too_long
from engine.text.special_tokens import SpecialTokens, TooManyTokens
from engine.types import ChatPrompt, Prompt, TextPrompt, TokensPrompt
from engine.wanted import Wanted

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})

__all__ = ["ImageInputs", "PreparedPrompt", "PromptPreparer"]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPrompt:
    """The input of the model. token_ids contains a pad token for each token of each image, at its position."""

    token_ids: list[int]
    images: ImageInputs | None = None


class PromptPreparer:
    """Renders, tokenizes and adds images. Special tokens in user input stay text.

    template: the chat template (Jinja); images: None for a model without vision; max_tokens:
    the context, beyond which a text is not tokenized to its end.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        template: str,
        images: ImagePreparer | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._template = template
        self._images = images
        self._max_tokens = max_tokens
        self._special = SpecialTokens(tokenizer.backend_tokenizer, template)

    @property
    def image_pixels(self) -> int | None:
        """The most pixels that are looked at of an image, None for a model without vision."""
        return None if self._images is None else self._images.most_pixels

    def prepare(self, prompt: Prompt, wanted: Wanted | None = None) -> PreparedPrompt:
        """Return the ids and images of a prompt, with a text for each image that cannot be decoded and has one.

        Raises ValidationError or a subclass, with the field at fault, and as `wanted` does once it is not wanted.
        """
        wanted = wanted or Wanted()
        ids = self._ids(prompt, wanted)
        if self._images is None or not isinstance(prompt, ChatPrompt) or not prompt.images:
            return PreparedPrompt(ids)
        try:
            images = self._images.prepare(prompt.images, wanted)
        except Undecodable as found:
            left_out = found.indexes
        else:
            return PreparedPrompt(_expanded(ids, self._images.pad_token_id, self._images.token_counts(images)), images)
        return self.prepare(prompt.without_images(left_out), wanted)  # the others have more room then

    def tokenize(self, prompt: Prompt, wanted: Wanted | None = None) -> list[int]:
        """Return the ids that `prepare` returns, without decoding an image. Raises as `prepare` does of the text."""
        ids = self._ids(prompt, wanted or Wanted())
        if self._images is None or not isinstance(prompt, ChatPrompt) or not prompt.images:
            return ids
        return _expanded(ids, self._images.pad_token_id, self._images.header_counts(prompt.images))

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """The tokens that no text of a user becomes, and their ids."""
        return self._special.ids

    def renders_tools(self) -> bool:
        """Return whether the chat template shows tools, calls in the history and their results."""
        shown = ("toolxname", "callxname", "resultxtext")
        tool, call, result = shown
        turns: tuple[dict[str, Any], ...] = (
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [_function({"name": call, "arguments": "{}"})]},
            {"role": "tool", "content": result, "tool_call_id": "x"},
        )
        tools = (_function({"name": tool, "description": "x", "parameters": {"type": "object"}}),)
        try:
            rendered = self._render(ChatPrompt(turns, tools=tools))
        except ValidationError:
            return False
        return all(text in rendered for text in shown)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text that the model itself could generate, with its tool calls and reasoning as tokens.

        Tokens that are marked special end or frame an answer and spell no text, so their names stay text.
        """
        return self._special.encode(self._special.guard(text, own=True))

    def _ids(self, prompt: Prompt, wanted: Wanted) -> list[int]:
        """Return the ids of a prompt with one pad token for each image."""
        wanted.check()
        try:
            if isinstance(prompt, ChatPrompt):
                return self._chat_ids(prompt, wanted)
            if isinstance(prompt, TextPrompt):
                return _not_empty(self._special.encode_plain(prompt.text, self._max_tokens))
            return self._checked(prompt)
        except TooManyTokens as error:
            raise too_long(prompt, error.most) from None

    def _chat_ids(self, prompt: ChatPrompt, wanted: Wanted) -> list[int]:
        if prompt.images and self._images is None:
            raise Unsupported("This model does not read images.", "image")
        rendered = self._render(prompt)
        wanted.check()
        ids = _not_empty(self._special.encode(rendered, self._max_tokens))
        if self._images is not None and ids.count(self._images.pad_token_id) != len(prompt.images):
            raise ValidationError("The conversation and its images do not match.", "messages")
        return ids

    def _render(self, prompt: ChatPrompt) -> str:
        messages = [self._message(message) for message in prompt.messages]
        begun = _begun(messages.pop()) if messages and prompt.continues else ""
        try:
            rendered = str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tools=self._special.guard(prompt.tools) or None,
                    chat_template=self._template,
                    add_generation_prompt=prompt.opens_answer or prompt.continues,
                    enable_thinking=prompt.thinking,
                    tokenize=False,
                )
            )
            return rendered + begun
        except MemoryError:
            raise  # says nothing of the conversation
        except Exception as error:  # templates raise any type for conversations they do not support
            raise ValidationError("The conversation does not fit this model's chat template.", "messages") from error

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return one message with special tokens in user input guarded, and content as the template expects it."""
        role = message.get("role")
        if role not in ROLES:
            raise ValidationError(f"A message's role must be one of {', '.join(sorted(ROLES))}.", "messages")
        guarded: dict[str, Any] = self._special.guard(message, own=role == "assistant")
        content = message.get("content")
        if content is None and role == "assistant":
            guarded["content"] = ""  # only tool calls; templates concatenate content without a check
        elif isinstance(content, list | tuple):
            self._check_parts(content)
            if self._images is None:
                guarded["content"] = "\n".join(part["text"] for part in guarded["content"])
        elif not isinstance(content, str):
            raise ValidationError("A message's content must be a text or a list of parts.", "messages")
        return guarded

    def _check_parts(self, parts: list[Any] | tuple[Any, ...]) -> None:
        """Reject parts that a template would drop or misread: all but text, and images for a vision model."""
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "image" and self._images is None:
                raise Unsupported("This model does not read images.", "image")
            if kind != "image" and not (kind == "text" and isinstance(part.get("text"), str)):
                raise ValidationError("A part of a message must be a text or an image.", "messages")

    def _checked(self, prompt: TokensPrompt) -> list[int]:
        ids = _not_empty(list(prompt.token_ids))
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            raise ValidationError(f"Token ids must be from 0 to {self._vocab_size - 1}.", "prompt")
        images = self._images
        if images is not None and not {images.pad_token_id, images.video_token_id}.isdisjoint(ids):
            raise Unsupported("Image tokens cannot be sent as token ids.", "prompt")
        return ids


def _function(function: dict[str, Any]) -> dict[str, Any]:
    return {"id": "x", "type": "function", "function": function}


def _not_empty(ids: list[int]) -> list[int]:
    if not ids:
        raise ValidationError("The prompt is empty.", "prompt")
    return ids


def _begun(message: dict[str, Any]) -> str:
    """Return the text of an answer that has begun; the model sees it as if it had generated it itself."""
    content = message["content"]
    if message["role"] != "assistant" or message.get("tool_calls"):
        raise ValidationError("Only a text of the assistant can be continued.", "messages")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _expanded(ids: list[int], pad_token_id: int, counts: list[int]) -> list[int]:
    """Return the ids with the pad token of each image repeated for each of its tokens."""
    left = iter(counts)
    expanded: list[int] = []
    for token_id in ids:
        expanded += [token_id] * (next(left) if token_id == pad_token_id else 1)
    return expanded
