"""Reads one answer from the events of an OpenAI-compatible server, and makes of it what an engine of ours would say.

Calls and reasoning become the tags that chat templates write and `routes.chat.output` parses, so that nothing above the
engine's interface knows who has answered. What is no answer raises UpstreamFailed; texts of the server are never shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from engine.errors import UpstreamFailed
from engine.text.estimate import text_tokens
from engine.types import (
    UNKNOWN_TOKEN,
    ChatPrompt,
    Completion,
    FinishReason,
    GenerationRequest,
    Piece,
    Timings,
    TokenLogprob,
)
from upstream.calls import NONSENSE, Calls, text_of

# Finish reasons as servers name them, and what they pass on of Anthropic's, Gemini's, Mistral's and others' models.
ENDS = "stop eos eos_token end_turn stop_sequence tool_calls tool_use function_call".split()
LENGTHS = "length max_tokens max_output_tokens model_length".split()
FILTERS = "content_filter safety sensitive refusal recitation language blocklist prohibited_content spii".split()
FILTERS += "image_safety image_prohibited_content image_recitation".split()
STOPS = ("stop_reason", "matched_stop")  # where vLLM and SGLang say which stop string has ended an answer, or null
THINK, THINK_END = "<think>\n", "\n</think>\n\n"
STATUS = re.compile("[45][0-9][0-9]")  # of HTTP, for what has failed
WITHIN = re.compile(r"<think>.*?</think>\n*", re.DOTALL)  # content
MOST_BYTES = 64 * 1024  # of an answer, beside MOST_BYTES_A_TOKEN for each of its tokens
MOST_BYTES_A_TOKEN = 128
MOST_DATA_A_TOKEN, MOST_DATA_A_SCORE = 2048, 512  # bytes of events for each token, and for each of its alternatives
MOST_TOKENS = 10_000_000  # that a server may count for one request
LEAST_LOGPROB = -9999.0  # as servers write the logarithm of 0, for which JSON has no number

HALF = "The server that answers for this model broke off in its answer."
REPORTED = "The server that answers for this model reported an error in its answer."
WITHHELD = "The server that answers for this model withheld its answer."


class Withheld(UpstreamFailed):
    """The server answers that it does not answer this: it works, and would say so again."""


class BrokenOff(UpstreamFailed):
    """The answer has no end."""


class ReportedError(UpstreamFailed):
    """The answer ends with an error of the server.

    status: that of HTTP which it names, where it stands in place of an answer and names one; body: it, as it came.
    """

    def __init__(self, status: int | None = None, body: bytes = b"") -> None:
        super().__init__(REPORTED)
        self.status, self.body = status, body


class AnswerReader:
    """One answer, as far as it has come. prompt_tokens, and what else is counted, is an estimate until it is told."""

    def __init__(self, request: GenerationRequest, prompt_tokens: int, max_tokens: int) -> None:
        prompt, rules = request.prompt, request.sampling.rules
        self._chat = isinstance(prompt, ChatPrompt)
        self._thinks = isinstance(prompt, ChatPrompt) and prompt.thinking
        self._tools = bool(rules is not None and rules.arguments)
        self._only_calls = rules is not None and rules.forced
        self._stops = request.sampling.stop
        self._wants_logprobs, self._alternatives = request.sampling.logprobs is not None, request.sampling.logprobs or 0
        scores = MOST_DATA_A_SCORE * (2 + self._alternatives) if self._wants_logprobs else 0
        self._data_left = MOST_BYTES + (MOST_DATA_A_TOKEN + scores) * max_tokens
        self._most = MOST_BYTES + MOST_BYTES_A_TOKEN * max_tokens
        self._texts: list[str] = []
        self._size = self._hidden = 0  # characters that are shown, and that are not
        self._reasoning = 0  # characters of the reasoning at the beginning, with its tags
        self._space: list[str] = []  # white space at the beginning, hidden as yet: it may stand before a call
        self._thinking = self._said = False
        self._calls = Calls(self._most)
        self.logprobs: list[TokenLogprob] = []
        self.prompt_tokens, self.cached_tokens = prompt_tokens, 0
        self._told: int | None = None
        self._told_all = False  # nothing has come since
        self._reasoning_tokens: int | None = None  # as the server has counted them
        self.events = 0  # that held a part of the answer
        self.finish_reason: FinishReason | None = None
        self.stop: str | None = None
        self.done = False

    @property
    def output_tokens(self) -> int:
        """The tokens of the answer so far, as the server has counted them, else about."""
        if self._told and self._told_all:
            return self._told
        return max(self._told or 0, self.events, text_tokens("".join(self._texts)) + self._hidden // 3)

    @property
    def begun(self) -> bool:
        """Whether anything of the answer has come, shown or not."""
        return bool(self.events or self._hidden or self._told or self.calls)

    @property
    def cut(self) -> bool:
        """Whether the answer has ended before its end, by its length or by a stop string of the client's own."""
        return self.finish_reason == "length" or self.stop in self._stops

    @property
    def told(self) -> bool:
        """Whether the server has counted tokens."""
        return self._told is not None

    @property
    def calls(self) -> list[tuple[str, str]]:
        """The calls so far: names and arguments."""
        return self._calls.made

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def said(self) -> str:
        """The text behind the reasoning that it begins with, which some servers leave among the content."""
        said = self.text[self._reasoning :]
        within = WITHIN.match(said) if self._thinks and not self._reasoning else None
        return said if within is None else said[within.end() :]

    def read(self, data: bytes) -> Piece | None:
        """Take the data of one event; return the part of the answer that it holds.

        Raises UpstreamFailed, and behind the finish reason only where the answer is withheld after all: it is whole.
        """
        if data.strip() == b"[DONE]":
            self.done = True
            return None
        whole = self.finish_reason is not None
        try:
            return self._event(data)
        except Withheld:
            raise
        except UpstreamFailed:
            if not whole:
                raise
            return None

    def end(self) -> Piece | None:
        """Take the end of the stream; return a last part. Raises UpstreamFailed for half an answer."""
        if self.finish_reason is None:
            raise BrokenOff(HALF)
        space = "" if self._said else self._taken_space()
        return self._shown(space + self._closed(last=True), ())

    def completion(self, timings: Timings) -> Completion:
        """Return the whole answer, once it has ended."""
        assert self.finish_reason is not None
        return Completion(
            text=self.text,
            finish_reason=self.finish_reason,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            timings=timings,
            logprobs=tuple(self.logprobs),
            cached_tokens=self.cached_tokens,
            stop=self.stop if self.stop in self._stops else None,  # not one of the server's own
            reasoning_tokens=self._reasoning_tokens,
        )

    def _event(self, data: bytes) -> Piece | None:
        self._data_left -= len(data)  # whatever is kept of it, for white space and unfinished calls are kept as well
        if self._data_left < 0:
            raise UpstreamFailed(NONSENSE)
        try:
            return self._chunk(_json(data), data)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError):
            raise UpstreamFailed(NONSENSE) from None

    def _chunk(self, chunk: Any, data: bytes) -> Piece | None:
        if chunk.get("error") or chunk.get("object") == "error":
            raise ReportedError() if self.begun else ReportedError(_status(chunk), data)
        if chunk.get("type") == "ping":  # a sign of life of Anthropic's
            return None
        usage = chunk.get("usage")
        choices = chunk.get("choices") if usage else chunk["choices"]
        piece = self._chosen(choices[0]) if choices else None
        if usage:
            self._count(usage)
        return piece

    def _chosen(self, choice: dict[str, Any]) -> Piece | None:
        before = self.events, self._hidden
        piece = self._delta(choice.get("delta") or {}, choice) if self._chat else self._continued(choice)
        self._told_all = self._told_all and before == (self.events, self._hidden)
        if (reason := choice.get("finish_reason")) not in (None, ""):
            self._finish(reason, choice)
        return piece

    def _continued(self, choice: dict[str, Any]) -> Piece | None:
        text = text_of(choice.get("text"))
        scored = _legacy(choice.get("logprobs")) if self._wants_logprobs else ()
        return self._shown(text, self._scored(scored, text, range(self._size, self._size + len(text))))

    def _delta(self, delta: dict[str, Any], choice: dict[str, Any]) -> Piece | None:
        said, text, begin = "", "", 0
        thought, content = _content(delta.get("content"))
        scored = ((choice.get("logprobs") or {}).get("content") or ()) if self._wants_logprobs else ()
        if reasoning := text_of(delta.get("reasoning_content")) or text_of(delta.get("reasoning")) or thought:
            said += self._reasoned(reasoning)
            text, begin = (reasoning, len(said) - len(reasoning)) if said else ("", 0)
            scored = scored if said or content else ()  # of a text that nobody is shown
        if content:
            said += self._content(content)
            text, begin = (text, begin) if text else (content, max(0, len(said) - len(content)))
        if text_of(delta.get("refusal")):
            raise Withheld(WITHHELD)
        said += "".join(map(self._called, delta.get("tool_calls") or ()))
        return self._shown(said, self._scored(scored, text, range(self._size + begin, self._size + len(said))))

    def _reasoned(self, text: str) -> str:
        if not self._thinks:
            return self._not_shown(text)
        opened = "" if self._thinking else self._closed() + THINK
        self._thinking = True
        return self._thought(opened + text)

    def _thought(self, text: str) -> str:
        self._reasoning += 0 if self._said else len(text)
        return text

    def _content(self, text: str) -> str:
        if self._only_calls or (self._calls.open and not text.strip()):
            return self._not_shown(text)  # white space within a call says nothing, and ends none
        if not self._said and not text.strip():
            self._space.append(text)
            return self._not_shown(text)
        before = "" if self._said or self._thinking else self._taken_space()
        closed, self._said = self._closed(), True
        return closed + before + text

    def _taken_space(self) -> str:
        """Return the white space at the beginning, which is shown now."""
        space = "".join(self._space)
        self._space.clear()
        self._hidden -= len(space)
        return space

    def _not_shown(self, text: str) -> str:
        """Count what the server has made and nobody is shown, or not yet; return what is shown of it."""
        self._hidden += len(text)
        self.events += 1
        self._check_size()
        return ""

    def _called(self, call: dict[str, Any]) -> str:
        if not self._tools:
            raise UpstreamFailed(NONSENSE)
        said = ""
        if self._calls.begins(call):
            said += self._closed() + ("\n" if self.calls else "")
            self._calls.begin()
            self._said = True
        return said + self._calls.take(call)

    def _closed(self, last: bool = False) -> str:
        """Return the end of the call or of the reasoning that is open. last: so ends the answer."""
        if self._thinking:
            self._thinking = False
            return self._thought(THINK_END)
        return self._calls.close(self.cut, last) if self._calls.open else ""

    def _shown(self, text: str, logprobs: Sequence[TokenLogprob]) -> Piece | None:
        if not text and not logprobs:
            return None
        self.events += 1
        self._texts.append(text)
        self._size += len(text)
        self._check_size()
        self.logprobs += logprobs
        return Piece(text, logprobs=tuple(logprobs))

    def _check_size(self) -> None:
        if self._size + self._hidden > self._most:
            raise UpstreamFailed(NONSENSE)

    def _scored(self, tokens: Sequence[Any], text: str, span: range) -> tuple[TokenLogprob, ...]:
        """Return the tokens of an event. text: that they spell, perhaps behind a tag of the server's, of which nothing
        need be shown; span: where it stands, to the end of what the event adds.
        """
        names = [text_of(one["token"]) for one in tokens]
        joined, begins = "".join(names), list(accumulate(map(len, names), initial=0))
        tag = next((begin for begin in begins if joined.startswith(text, begin)), 0)
        found = []
        for one, token, begin in zip(tokens, names, begins, strict=False):  # behind the last one, none begins
            data, offset = _bytes(one), min(span.start + begin - tag, span.stop)
            if offset < self._size:
                continue
            alternatives = self._likeliest(one.get("top_logprobs") or ())
            top = [(UNKNOWN_TOKEN, text_of(other["token"]), _logprob(other)) for other in alternatives]
            others = tuple(_bytes(other) or text_of(other["token"]).encode() for other in alternatives)
            found.append(TokenLogprob(UNKNOWN_TOKEN, token, _logprob(one), tuple(top), data, others, offset=offset))
        return tuple(found)

    def _likeliest(self, alternatives: Sequence[Any]) -> Sequence[Any]:
        """Return as many as the client asked for: some servers have one more, or one at least."""
        if len(alternatives) <= self._alternatives:
            return alternatives
        return sorted(alternatives, key=_logprob, reverse=True)[: self._alternatives]

    def _count(self, usage: Any) -> None:
        """Take the server's count of tokens; one that cannot be used is none, and spoils no answer."""
        try:
            prompt, output = _tokens(usage.get("prompt_tokens")), _tokens(usage.get("completion_tokens"))
            cached = _tokens((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        except (ValueError, TypeError, AttributeError, OverflowError):
            return
        if not prompt and not output:
            return  # as some servers say in every event but the last, or in all
        self.prompt_tokens = prompt or self.prompt_tokens
        self._told, self._told_all = max(output, _beside(usage, prompt)), True
        self._reasoning_tokens = _reasoning_tokens(usage)
        self.cached_tokens = min(cached, self.prompt_tokens)

    def _finish(self, reason: Any, choice: dict[str, Any]) -> None:
        name = text_of(reason).lower()
        if name in LENGTHS:
            self.finish_reason = "length"
        elif name in ENDS:
            self.finish_reason = "stop"
        else:
            raise Withheld(WITHHELD) if name in FILTERS else ReportedError()
        for field in STOPS:
            if field in choice:
                stop = choice[field]
                self.stop = (stop or None) if isinstance(stop, str) else None


def _json(data: bytes) -> Any:
    """Return the value of a JSON text, whose texts can be sent on: U+FFFD stands for half a surrogate pair."""
    value = json.loads(data.decode(errors="replace"))
    if b"\\ud" not in data.lower():
        return value
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _status(chunk: dict[str, Any]) -> int | None:
    """Return the status of HTTP that an error names, None for none: beside its message, as a number or in digits."""
    error = chunk.get("error")
    for told in (error if isinstance(error, dict) else {}, chunk):
        for name in ("code", "status"):
            if STATUS.fullmatch(str(told.get(name))):
                return int(told[name])
    return None


def _content(value: Any) -> tuple[str, str]:
    """Return the reasoning and the text in a content, which is a list of parts where Mistral's models reason."""
    if not isinstance(value, list):
        return "", text_of(value)
    thought = text = ""
    for part in value:
        if part["type"] == "thinking":
            thought += _content(part["thinking"])[1]
        elif part["type"] == "text":
            text += text_of(part["text"])
    return thought, text


def _tokens(value: Any) -> int:
    """Return a number of tokens, which some servers write as 5.0. Raises ValueError."""
    if not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS or value != int(value):
        raise ValueError(value)
    return int(value)


def _reasoning_tokens(usage: dict[str, Any]) -> int | None:
    try:
        return _tokens((usage.get("completion_tokens_details") or {}).get("reasoning_tokens"))
    except (ValueError, AttributeError, OverflowError):
        return None


def _beside(usage: dict[str, Any], prompt: int) -> int:
    """Return the tokens that the total has beside those of the prompt, 0 where it cannot be used.

    xAI and Gemini count reasoning there alone, and charge for it.
    """
    try:
        return _tokens(usage.get("total_tokens")) - prompt if prompt else 0
    except ValueError:
        return 0


def _logprob(token: dict[str, Any]) -> float:
    """Return a log probability, of which JSON has a number. Raises ValueError."""
    value = float(token["logprob"])
    if not value <= -LEAST_LOGPROB:  # NaN, too
        raise ValueError(value)
    return max(value, LEAST_LOGPROB)


def _bytes(token: dict[str, Any]) -> bytes | None:
    data = token.get("bytes")
    if data is not None and not isinstance(data, list):
        raise TypeError(data)  # of a number, `bytes` would make as many zeros
    return None if data is None else bytes(data)


def _legacy(logprobs: Any) -> list[dict[str, Any]]:
    """Return the log probabilities of `/completions` as chats have them, and as llama.cpp sends them."""
    if not logprobs:
        return []
    if "content" in logprobs:
        return logprobs["content"] or []
    tops: Sequence[Any] = logprobs.get("top_logprobs") or [{} for _ in logprobs["tokens"]]
    return [
        {"token": token, "logprob": score, "top_logprobs": _scores(top)}
        for token, score, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
    ]


def _scores(top: Any) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": score} for token, score in (top or {}).items()]
