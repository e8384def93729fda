"""What a conversation has behind it, as it is read here: a note stands for each part that is not.

Programs send the whole conversation with each question, and can take back neither a part of an earlier turn nor one of
a result. So only the new question is refused for what it has; it begins behind the last answer that something follows.
What follows results of tools with no answer between belongs to them: programs send there what a result cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from routes.chat.conversation import UNREAD_DOCUMENT, UNREAD_IMAGE

MAX_KIND = 64  # characters of a type that a note names
FILES = frozenset({"file", "input_file", "document"})

Value = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts that one kind of list may have. others: types that are left as they are.

    readers: by type, what returns a part as it is read, None for one that is not.
    """

    others: frozenset[str]
    readers: Mapping[str, Callable[[Value], Value | None]]

    def readable(self, content: Any) -> Any:
        """Return content with a note for each part that is not read; what is no part is left to be refused."""
        return [self._readable(part) for part in content] if isinstance(content, list) else content

    def _readable(self, part: Any) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind in self.others:
            return part
        read = self.readers.get(kind)
        found = None if read is None else read(part)
        return {"type": "text", "text": _note(kind)} if found is None else found


@dataclass(frozen=True, slots=True)
class History:
    """How a protocol writes a conversation.

    is_answer: whether a message is the assistant's, or a part of its answer; is_result: whether it has results of
    tools; result: returns a message with its results as they are read; earlier: the parts of a message of an earlier
    turn; answer: those of an answer.
    """

    is_answer: Callable[[Value], bool]
    is_result: Callable[[Value], bool]
    result: Callable[[Value], Value]
    earlier: Parts
    answer: Parts

    def readable(self, messages: Any) -> Any:
        """Return the messages of a request, before they are checked, with notes for what is not read in their past."""
        if not isinstance(messages, list):
            return messages
        answers = [isinstance(message, dict) and self.is_answer(message) for message in messages]
        start = question_start(answers, [isinstance(message, dict) and self.is_result(message) for message in messages])
        return [
            self._answer(message, index < start) if answer else self._message(message, index < start)
            for index, (message, answer) in enumerate(zip(messages, answers, strict=True))
        ]

    def _answer(self, message: Value, earlier: bool) -> Value:
        """The beginning of the new answer stays as it is: it is continued word for word."""
        if not earlier or message.get("role") != "assistant" or not isinstance(message.get("content"), list):
            return message
        return {**message, "content": self.answer.readable(message["content"])}

    def _message(self, message: Any, earlier: bool) -> Any:
        if not isinstance(message, dict):
            return message
        message = self.result(message)
        if earlier and message.get("role") == "user" and message.get("content") is None:
            return {**message, "content": ""}
        if not earlier or not isinstance(message.get("content"), list):
            return message
        return {**message, "content": self.earlier.readable(message["content"]) or ""}


def question_start(answers: Sequence[bool], results: Sequence[bool]) -> int:
    """Return the index of the new question's first message, behind all others where none is asked.

    answers: which messages are the assistant's; results: which have results of tools. Answers at the end are the
    beginning of the one that is asked for.
    """
    end = len(answers)
    while end and answers[end - 1]:
        end -= 1
    start = end
    while start and not answers[start - 1]:
        start -= 1
    return end if any(results[start:end]) else start


def _note(kind: str) -> str:
    if kind in FILES:
        return UNREAD_DOCUMENT
    return UNREAD_IMAGE if "image" in kind else f"[A part of the type {kind[:MAX_KIND]}, which is not read here.]"
