"""From a prompt as the routes give it to token ids and pictures, by the checkpoint's own files, in the caller's thread.

Nothing here changes after it is made, so any number of threads may prepare prompts at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from engine.errors import Unsupported, ValidationError
from engine.text.processor import ImageInputs, PictureProcessor
from engine.text.special_tokens import SpecialTokens
from engine.types import ChatPrompt, Prompt, TextPrompt, TokensPrompt

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})

__all__ = ["ImageInputs", "PreparedPrompt", "PromptPreparer"]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPrompt:
    """A prompt as the model takes it. token_ids holds one pad token for each token of each picture, in place."""

    token_ids: list[int]
    images: ImageInputs | None = None


class PromptPreparer:
    """Renders, tokenizes and adds pictures. Special tokens typed by a user stay text, wherever they are typed.

    template: the chat template (Jinja); pictures: None for a model that reads none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        template: str,
        pictures: PictureProcessor | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._template = template
        self._pictures = pictures
        self._special = SpecialTokens(tokenizer.backend_tokenizer, template)

    def prepare(self, prompt: Prompt) -> PreparedPrompt:
        """Return the ids and pictures of a prompt. Raises ValidationError and its kin, with the field to blame."""
        if isinstance(prompt, ChatPrompt):
            return self._prepare_chat(prompt)
        if isinstance(prompt, TextPrompt):
            return PreparedPrompt(_not_empty(self._special.encode_plain(prompt.text)))
        return PreparedPrompt(self._checked(prompt))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text that the model itself might write, control tokens included."""
        return self._special.encode(text)

    def _prepare_chat(self, prompt: ChatPrompt) -> PreparedPrompt:
        if prompt.images and self._pictures is None:
            raise Unsupported("This model does not read images.", "image")
        ids = _not_empty(self._special.encode(self._render(prompt)))
        if self._pictures is None:
            return PreparedPrompt(ids)
        if ids.count(self._pictures.pad_token_id) != len(prompt.images):
            raise ValidationError("The conversation and its images do not match.", "messages")
        if not prompt.images:
            return PreparedPrompt(ids)
        images = self._pictures.prepare(prompt.images)
        return PreparedPrompt(self._expanded(ids, self._pictures, images), images)

    def _render(self, prompt: ChatPrompt) -> str:
        messages = [self._message(message) for message in prompt.messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    tools=self._special.guard(prompt.tools) or None,
                    chat_template=self._template,
                    add_generation_prompt=True,
                    enable_thinking=prompt.thinking,
                    tokenize=False,
                )
            )
        except Exception as error:  # a template can fail in any way on a conversation it does not foresee
            raise ValidationError("The conversation does not fit this model's chat template.", "messages") from error

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return one message with everything the user typed made harmless, its content as the template reads it."""
        role = message.get("role")
        if role not in ROLES:
            raise ValidationError(f"A message's role must be one of {', '.join(sorted(ROLES))}.", "messages")
        guarded: dict[str, Any] = self._special.guard(message, own=role == "assistant")
        content = message.get("content")
        if content is None and role == "assistant":
            guarded["content"] = ""  # a turn of tool calls alone; templates concatenate content without asking
        elif isinstance(content, list | tuple):
            self._check_parts(content)
            if self._pictures is None:
                guarded["content"] = "\n".join(part["text"] for part in guarded["content"])
        elif not isinstance(content, str):
            raise ValidationError("A message's content must be a text or a list of parts.", "messages")
        return guarded

    def _check_parts(self, parts: list[Any] | tuple[Any, ...]) -> None:
        """Refuse content that a template would drop or misread. Text-only templates know strings alone."""
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "image" and self._pictures is None:
                raise Unsupported("This model does not read images.", "image")
            if kind != "image" and not (kind == "text" and isinstance(part.get("text"), str)):
                raise ValidationError("A part of a message must be a text or an image.", "messages")

    def _checked(self, prompt: TokensPrompt) -> list[int]:
        ids = _not_empty(list(prompt.token_ids))
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            raise ValidationError(f"Token ids must be from 0 to {self._vocab_size - 1}.", "prompt")
        pictures = self._pictures
        if pictures is not None and not {pictures.pad_token_id, pictures.video_token_id}.isdisjoint(ids):
            raise Unsupported("Image tokens cannot be sent as token ids.", "prompt")
        return ids

    @staticmethod
    def _expanded(ids: list[int], pictures: PictureProcessor, images: ImageInputs) -> list[int]:
        """Return the ids with each picture's one pad token repeated for all of its tokens."""
        counts = iter(pictures.token_counts(images))
        expanded: list[int] = []
        for token_id in ids:
            expanded += [token_id] * (next(counts) if token_id == pictures.pad_token_id else 1)
        return expanded


def _not_empty(ids: list[int]) -> list[int]:
    if not ids:
        raise ValidationError("The prompt is empty.", "prompt")
    return ids
