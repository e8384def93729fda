"""Parses the text of a model into reasoning, tool calls and the answer itself.

The parser takes the text in pieces and returns each part as soon as it is unambiguous; the parts do not depend on the
pieces. The tags of the chat template never become text of an answer:

    - Between `<tool_call>` and its end stands one call. What is no call of a tool of the request, or no JSON before its
      arguments begin, becomes content without the tags. A tag without a partner is left out.
    - A call whose arguments have begun stays a call. If they do not come to an end, because the answer was cut or is
      not JSON any more, it ends incomplete; the rest of such a block is passed over.
    - The arguments of a complete call are a JSON object (`JsonStream`), whatever the model wrote.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Set
from dataclasses import dataclass

from routes.chat.call_stream import CallStream
from routes.chat.json_stream import WHITE
from routes.chat.parts import (
    Call,
    CallArguments,
    CallBegin,
    CallEnd,
    Content,
    ParsedAnswer,
    Part,
    Reasoning,
    can_be_made,
)

__all__ = [
    "Call",
    "CallArguments",
    "CallBegin",
    "CallEnd",
    "Content",
    "ExpectedOutput",
    "OutputParser",
    "ParsedAnswer",
    "Part",
    "Reasoning",
]

CALL, CALL_END = "<tool_call>", "</tool_call>"
CALL_TAGS = (CALL, CALL_END, "<tool_response>", "</tool_response>")
THINK, THINK_END = "<think>", "</think>"
# In Lark: how an answer begins that may have reasoning in front, and the rules that this needs.
MAY_REASON = "(reasoning line_breaks)?"
REASONING = f"reasoning[lazy]: /{THINK}(.|\\n)*<\\/think>/\nline_breaks: /\\n*/"


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """What else is known of the text of an answer.

    calls: tags of calls may occur even if none can be made, by habit; forced: it consists of calls; sole: the only
    function that these can name, if there is one; exclusive: behind reasoning it consists of calls, or of a text in
    which nothing is a tag; parallel: all calls are shown, not the first alone.
    """

    calls: bool = False
    forced: bool = False
    sole: str = ""
    exclusive: bool = False
    parallel: bool = True


class OutputParser:
    """Parses one answer. tools: the functions that it may call; reasoning: whether it may reason first."""

    def __init__(self, tools: Set[str], reasoning: bool, expected: ExpectedOutput = ExpectedOutput()) -> None:
        self._tools, self._expected = tools, expected
        self._call_tags = CALL_TAGS if tools or expected.calls else ()
        self._tags = self._call_tags + ((THINK, THINK_END) if reasoning else ())
        begins = (CALL, bool(self._call_tags)), (THINK, reasoning)
        self._first_tags = tuple(tag for tag, known in begins if known)  # of an answer in which nothing else is a tag
        self._held = ""
        self._passed_over = ""  # characters that are left out until another one comes
        self._passed = ""  # the last of them that was, since the latest tag
        # A plain function: a method would refer back to this object.
        self._read: Callable[[OutputParser, list[Part]], bool] = (
            OutputParser._begin if expected.exclusive else OutputParser._content
        )
        self._call = CallStream(tools)
        self._calls = 0  # that have begun
        self._complete: list[bool] = []  # of each call that has ended
        self._texts: set[type[Content | Reasoning]] = set()  # that have been shown
        self._parted: set[type[Content | Reasoning]] = set()  # those of them behind which a tag stood
        self._spaces: list[str] = []  # white space behind what is held, which is white space too
        self._blank = False  # what is held is white space
        self._fed = 0  # characters, without those
        self._began = 0  # where the call, or what is skipped, begins in the text
        self._closing = False  # the end tag of a call that is shown may come
        self._thought = 0  # where the reasoning that is being read begins in the text, with its tag
        self.reasoned: list[range] = []  # where reasoning stands in the text, with its tags, once it has ended
        self.hidden: list[range] = []  # what of the text is shown neither as text nor as a call, so far, in its order

    @property
    def called(self) -> bool:
        """Whether the calls that have ended can be made."""
        return can_be_made(self._complete)

    @property
    def settled(self) -> int:
        """Up to where in the text it is known what is shown of it."""
        undecided = self._read == OutputParser._skipped or (
            self._read == OutputParser._in_call and not self._call.begun
        )
        may_be_shown = self._passed_over != "" and self._passed == "\n"  # a line break before a text
        return self._began if undecided else self._position - may_be_shown

    def feed(self, text: str) -> list[Part]:
        """Take the next piece of text and return the parts that are unambiguous now."""
        if self._blank:
            if not text or text.isspace():  # a model can be made to write it without an end: it is not searched again
                self._spaces.append(text)
                return []
            text = self._with_spaces(text)
        self._held += text
        self._fed += len(text)
        parts: list[Part] = []
        goes_on = True
        while goes_on:
            if self._passed_over:
                self._pass_over()
            goes_on = bool(self._held) and self._read(self, parts)
        return parts

    def finish(self) -> list[Part]:
        """Return the rest at the end."""
        parts: list[Part] = []
        more = self._with_spaces("")
        self._held += more
        self._fed += len(more)
        rest, self._held = self._held, ""
        if self._read == OutputParser._reasoning:
            self.reasoned.append(range(self._thought, self._fed))
        if self._read == OutputParser._in_call:
            self._show(self._call.finish(), parts, ended=True)
            self._hide_unless(self._call.begun or bool(self._expected.sole and not self._calls))
        elif self._read == OutputParser._skipped:
            self._hide_unless(False)
        else:
            at, begin = _tag_begin(rest, self._tags), self._fed - len(rest)
            # A single character is rather a sign of the text than the beginning of a tag.
            if at < len(rest) - 1 or self._expected.forced or self._calls:
                self._began = begin + at
                self._hide_unless(at == len(rest))
                rest = rest[:at].rstrip()
            if not (self._calls and rest.isspace()):
                self._add(Reasoning if self._read == OutputParser._reasoning else Content, rest, begin, "", parts)
        if self._expected.sole and not self._calls:  # cut before its name
            self._call = CallStream(self._tools)
            self._call.name = self._expected.sole
            self._show("", parts, ended=True)
        return parts

    def _with_spaces(self, text: str) -> str:
        text = "".join((*self._spaces, text))
        self._spaces.clear()
        self._blank = False
        return text

    def _pass_over(self) -> None:
        passed, self._held = self._held, self._held.lstrip(self._passed_over)
        self._passed = passed[: len(passed) - len(self._held)][-1:] or self._passed
        self._passed_over = "" if self._held else self._passed_over

    # Each reader takes what it can from `_held` and returns whether another reader, or itself, goes on with the rest.

    def _begin(self, parts: list[Part]) -> bool:
        if any(tag.startswith(self._held) and tag != self._held for tag in self._first_tags):
            return False
        tagged = self._held.startswith(self._first_tags)
        self._read = OutputParser._content if tagged else OutputParser._verbatim
        return True

    def _verbatim(self, parts: list[Part]) -> bool:
        parts.append(Content(self._held, range(self._position, self._fed)))
        self._held = ""
        return False

    def _content(self, parts: list[Part]) -> bool:
        begin = self._position
        text, tag = self._until_tag(self._tags)
        self._add(Content, text, begin, tag, parts)
        if tag == CALL:
            self._enter_call()
        elif tag == THINK:
            self._read, self._thought = OutputParser._reasoning, self._position - len(THINK)
        elif tag:
            self._leave_out(tag, but=self._closing and tag == CALL_END, behind_call=not text)
        return bool(tag)

    def _reasoning(self, parts: list[Part]) -> bool:
        begin = self._position
        text, tag = self._until_tag(self._tags)
        self._add(Reasoning, text, begin, tag, parts)
        if tag == THINK_END:
            self.reasoned.append(range(self._thought, self._position))
            self._read = OutputParser._begin if self._expected.exclusive else OutputParser._content
            self._first_tags = tuple(tag for tag in self._first_tags if tag != THINK)
        elif tag:
            self._leave_out(tag)
        return bool(tag)

    def _in_call(self, parts: list[Part]) -> bool:
        call = self._call
        arguments, self._held = call.feed(self._held), ""
        if call.broken and not call.name:
            self._held, self._read = call.text, OutputParser._content
            self.hidden.append(range(self._began, self._began + len(CALL)))
            return True
        ended = call.done or call.broken
        self._show(arguments, parts, ended)
        if ended:
            self._held, self._read = call.rest, OutputParser._content if call.done else OutputParser._skipped
            self._passed_over = f"{WHITE}}}]" if call.done else ""
            self._hide_unless(call.begun)
            self._began, self._closing = self._position, call.begun
        return ended

    def _skipped(self, parts: list[Part]) -> bool:
        _, tag = self._until_tag(self._call_tags)
        if tag:
            self._read, self._passed = OutputParser._content, ""
            self._hide_unless(False)
        if tag == CALL:
            self._enter_call()
        return bool(tag)

    @property
    def _position(self) -> int:
        """Where in the text the reader is."""
        return self._fed - len(self._held)

    def _enter_call(self) -> None:
        self._call, self._read = CallStream(self._tools), OutputParser._in_call
        self._began = self._position - len(CALL)

    def _leave_out(self, tag: str, but: bool = False, behind_call: bool = False) -> None:
        """Note that a tag that was just read is not shown. but: it belongs to what is; behind_call: only white space
        stands between it and a call, which it belongs to if that is hidden.
        """
        if not (behind_call and self.hidden and self.hidden[-1].stop == self._began):
            self._began = self._position - len(tag)
        self._closing = False
        self._hide_unless(but)

    def _hide_unless(self, shown: bool) -> None:
        """Note that the text since the begin of a call, or of what is skipped, is not shown."""
        if not shown:
            self.hidden.append(range(self._began, self._position))

    def _until_tag(self, tags: tuple[str, ...]) -> tuple[str, str]:
        """Take the text before the next tag, and the tag; without one, the text that cannot be part of a tag."""
        if not tags:
            text, self._held = self._held, ""
            return text, ""
        at = self._held.find("<")
        while at >= 0:
            for tag in tags:
                if self._held.startswith(tag, at):
                    text, self._held = self._held[:at].rstrip(), self._held[at + len(tag) :]
                    self._passed_over = "\n"
                    return text, tag
            at = self._held.find("<", at + 1)
        end = _tag_begin(self._held, tags)
        text, whole = self._held[:end].rstrip(), end == len(self._held)
        self._held = self._held[len(text) :]
        self._blank = whole and bool(self._held)
        return text, ""

    def _add(self, kind: type[Content | Reasoning], text: str, begin: int, tag: str, parts: list[Part]) -> None:
        """Add a text and note the tag behind it, which leaves a line break: what it parts may not become a tag.

        begin: where the text stands; its line break is that of the model if one was passed over in front of it.
        """
        if text:
            span = range(begin, begin + len(text))
            if kind in self._parted:
                text, span = f"\n{text}", range(begin - (self._passed == "\n"), span.stop)
            parts.append(kind(text, span))
            self._texts.add(kind)
            self._parted.discard(kind)
        if tag:
            self._parted |= self._texts
            self._passed = ""

    def _show(self, arguments: str, parts: list[Part], ended: bool) -> None:
        """Add what is known now of the call that is being read."""
        call = self._call
        if not call.name or (self._calls and not self._expected.parallel and not call.begun):
            return
        if not call.begun:
            call.begun = True
            self._calls += 1
            parts.append(CallBegin(self._calls - 1, f"call_{uuid.uuid4().hex[:24]}", call.name))
        if arguments:
            parts.append(CallArguments(self._calls - 1, arguments))
        if ended:
            parts.append(CallEnd(self._calls - 1, call.whole))
            self._complete.append(call.whole)


def _tag_begin(text: str, tags: tuple[str, ...]) -> int:
    """Return where a tag may begin that the text ends within, the length of the text if none does."""
    at = text.rfind("<")
    return at if at >= 0 and any(tag.startswith(text[at:]) for tag in tags) else len(text)
