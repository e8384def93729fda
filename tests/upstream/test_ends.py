"""How answers end: what is whole is kept, whatever follows it or does not, and what came is accounted."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from engine.errors import ContextTooLong, PayloadTooLarge, UpstreamFailed, UpstreamTimedOut, ValidationError
from engine.types import AnswerRules, ChatPrompt
from tests.fake_upstream import FakeUpstream, event
from tests.fakes import Clock
from tests.upstream.conftest import Open, asking
from tests.upstream.test_faults import until
from upstream import call
from upstream.answer import AnswerReader
from upstream.failures import of_status

SCHEMA = {"type": "object", "required": ["a"]}


def part(delta: dict[str, Any] | None = None, **choice: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta or {}, **choice}]})


SAID, END = part({"content": "Hello."}), part(finish_reason="stop")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5}})


@pytest.mark.parametrize("ending", ["", "open", "cut"])
@pytest.mark.parametrize(
    ("last", "tokens"),
    [
        ([END], 2),
        ([END, USAGE], 5),
        ([END, USAGE[:20]], 2),
        ([END, USAGE.rstrip()], None),
        ([END + b"data: {no json"], 2),
    ],
)
def test_an_answer_is_whole_with_its_finish_reason(
    server: FakeUpstream,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    last: list[bytes],
    tokens: int | None,
) -> None:
    """Without [DONE], where the response stays open, is cut, or goes on with nonsense: it is not asked for again."""
    if ending == "open":
        monkeypatch.setattr(call, "LAST_PATIENCE", 0.2)
        tokens = None  # in that time the usage comes, or not
    server.script.raw, server.script.ending = [SAID, *last], ending
    backend = opened(breaker_failures=1)
    completion = backend.submit(asking()).result()
    assert (completion.text, completion.finish_reason) == ("Hello.", "stop")
    assert tokens in (None, completion.output_tokens)
    assert (len(server.heard), backend.reports()[0].failures) == (1, {})


def test_an_answer_without_a_finish_reason_is_half(server: FakeUpstream, opened: Open) -> None:
    """However its response ends."""
    server.script.raw = [SAID, USAGE, event("[DONE]")]
    with pytest.raises(UpstreamFailed):
        opened(retries=1).submit(asking()).result()
    assert len(server.heard) == 2


def test_white_space_behind_the_last_word_is_nothing(server: FakeUpstream, opened: Open) -> None:
    """The response that stays open is not waited for."""
    server.script.raw, server.script.ending = [SAID, END, USAGE, event("[DONE] ")], "open"
    assert opened().submit(asking()).result().output_tokens == 5


def test_the_first_event_counts_behind_a_mark(server: FakeUpstream, opened: Open) -> None:
    """That of UTF-8, at the beginning of the stream."""
    server.script.raw = [b"\xef\xbb\xbf" + SAID, END, event("[DONE]")]
    assert opened().submit(asking()).result().text == "Hello."


@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=utf-8", "application/x-ndjson"])
def test_events_are_read_whatever_they_are_called(server: FakeUpstream, opened: Open, kind: str) -> None:
    """Some servers and gateways call them JSON; what is none of them is no answer."""
    server.script.kind, server.script.raw = kind, [SAID, END, USAGE, event("[DONE]")]
    assert opened().submit(asking()).result().text == "Hello."
    for none in (b'{"choices": [{"message": {"content": "Hello."}}]}', b"\x1f\x8b\x08" + bytes(100), b"x" * (2 << 20)):
        server.script.raw = [none]
        with pytest.raises(UpstreamFailed):
            opened(retries=0).submit(asking()).result()


def test_an_answer_that_its_own_stop_string_cut_follows_no_schema(server: FakeUpstream, opened: Open) -> None:
    """The client has asked for it, as it may of a model that is loaded here."""
    rules = AnswerRules("response_format", SCHEMA)
    server.script.raw = [part({"content": '{"a": '}), part(finish_reason="stop", stop_reason="}"), event("[DONE]")]
    completion = opened(retries=0).submit(asking(rules=rules, stop=("}",))).result()
    assert (completion.text, completion.stop) == ('{"a": ', "}")
    server.script.raw[1] = END
    with pytest.raises(UpstreamFailed):
        opened(retries=0).submit(asking(rules=rules)).result()


@pytest.mark.parametrize("text", ['{"a": ', '{"a": "b', "", '{"b": 1}', "Sorry, no JSON.", '<think>{"a": 1}'])
def test_an_answer_that_ends_without_its_form_breaks_it(server: FakeUpstream, opened: Open, text: str) -> None:
    """No stop string is sent along that could have cut it."""
    rules = AnswerRules("response_format", SCHEMA)
    server.script.raw = [part({"content": text}), part(finish_reason="stop"), event("[DONE]")]
    with pytest.raises(UpstreamFailed):
        opened(retries=0).submit(asking(rules=rules)).result()


@pytest.mark.parametrize(("content", "kept"), [('{"a": 1}', True), ('{"b": 1}', False), ("", False)])
@pytest.mark.parametrize("together", [True, False])
def test_the_form_is_that_of_the_text_behind_reasoning(
    server: FakeUpstream, opened: Open, content: str, kept: bool, together: bool
) -> None:
    """Which may have the tags of reasoning in itself."""
    thought, said = {"reasoning_content": "So </think> what?"}, {"content": content}
    deltas = [thought | said] if together else [thought, {"reasoning_content": " {}"}, said]
    server.script.raw = [*map(part, deltas), part(finish_reason="stop"), event("[DONE]")]
    prompt = ChatPrompt(({"role": "user", "content": "Hi"},), thinking=True)
    asked = asking(rules=AnswerRules("response_format", SCHEMA))
    generation = opened(retries=0).submit(replace(asked, prompt=prompt))
    if kept:
        assert generation.result().text.endswith(f"</think>\n\n{content}")
    else:
        with pytest.raises(UpstreamFailed):
            generation.result()


@pytest.mark.parametrize("thinking", [True, False])
def test_reasoning_that_a_server_leaves_in_the_content_is_none_of_the_form(
    server: FakeUpstream, opened: Open, thinking: bool
) -> None:
    """A server without a parser for it; where none was asked for, it is text that breaks the form."""
    server.script.raw = [
        part({"content": '<think>\nx\n</think>\n\n{"a": 1}'}),
        part(finish_reason="stop"),
        event("[DONE]"),
    ]
    prompt = ChatPrompt(({"role": "user", "content": "Hi"},), thinking=thinking)
    asked = replace(asking(rules=AnswerRules("response_format", SCHEMA)), prompt=prompt)
    if thinking:
        assert opened(retries=0).submit(asked).result().text.endswith('{"a": 1}')
    else:
        with pytest.raises(UpstreamFailed):
            opened(retries=0).submit(asked).result()


@pytest.mark.parametrize(("strict", "kept"), [({"look": True}, False), ({"look": False}, True), (None, True)])
def test_a_free_call_of_a_strict_function_is_held_to_its_schema(
    server: FakeUpstream, opened: Open, strict: dict[str, bool] | None, kept: bool
) -> None:
    """Whatever the server does with the mark; other free calls are any object."""
    made = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "look", "arguments": '{"b": 1}'}}]}
    server.script.raw = [part(made), part(finish_reason="tool_calls"), event("[DONE]")]
    generation = opened(retries=0).submit(asking(rules=AnswerRules(arguments={"look": SCHEMA}, strict=strict)))
    if kept:
        assert '{"b": 1}' in generation.result().text
    else:
        with pytest.raises(UpstreamFailed):
            generation.result()


@pytest.mark.parametrize(
    ("parts", "values"),
    [
        ([part({"reasoning_content": "Thinking hard. "})] * 20, {}),
        ([part({"content": "\n"})] * 20, {}),
        ([part({"content": "Not shown. "})] * 20, {"rules": AnswerRules(call="required", arguments={"look": {}})}),
    ],
)
def test_what_is_not_shown_is_accounted_too(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch, parts: list[bytes], values: dict[str, Any]
) -> None:
    """Whoever gave the answer up before anything was shown of it."""
    clock, heard, read = Clock(), list[bytes](), AnswerReader.read
    monkeypatch.setattr(AnswerReader, "read", lambda reader, data: heard.append(data) or read(reader, data))
    server.script.raw, server.script.ending = parts, "open"
    generation = opened(clock=clock, idle_timeout=0.1, retries=0).submit(asking(**values))
    until(lambda: len(heard) == len(parts))
    clock.advance(1)
    with pytest.raises(UpstreamTimedOut):
        generation.result()
    assert generation.spent.prompt_tokens > 0
    assert generation.spent.output_tokens >= 20


LONG = b'{"error": {"message": "This model\'s maximum context length is 10 tokens."}}'


@pytest.mark.parametrize(
    ("status", "body", "ending", "kind"),
    [
        ("400", [LONG[:30], LONG[30:]], "", ContextTooLong),
        ("400", [LONG[:30], LONG[30:]], "open", ContextTooLong),
        ("400", [LONG[:30]], "cut", ValidationError),
        ("400", [], "cut", ValidationError),
        ("400", [], "open", ValidationError),
        ("413", [], "open", PayloadTooLarge),
    ],
)
def test_a_refusal_is_what_its_status_says(
    server: FakeUpstream,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    body: list[bytes],
    ending: str,
    kind: type[Exception],
) -> None:
    """Whatever becomes of its body, which may come in parts; none of it is repeated or counts against the server."""
    if not body:
        monkeypatch.setattr(call, "ERROR_PATIENCE", 0.2)
    server.script.refusal, server.script.ending, server.script.gap = body, ending, 0.02
    server.script.faults = [status]
    backend = opened(breaker_failures=1)
    with pytest.raises(kind) as refused:
        backend.submit(asking()).result()
    assert type(refused.value) is kind
    assert (len(server.heard), backend.reports()[0].state) == (1, "closed")


@pytest.mark.parametrize(
    "error",
    [
        {
            "code": 400,
            "message": "request (5026 tokens) exceeds the available context size (4096 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 5026,
            "n_ctx": 4096,
        },
        {"message": "the request exceeds the available context size. try increasing the context size"},
        {"message": "You passed 5001 input tokens, which is over the maximum model length of 4096."},
        {"message": "The input (5026 tokens) is longer than the model's context length (4096 tokens)."},
        {"message": "Input length (5026 tokens) exceeds the maximum allowed length (4091 tokens)."},
        {"message": "Requested token count exceeds the model's maximum context length of 4096 tokens."},
        {"message": "the input length exceeds the context length"},
        {"message": "Your input exceeds the context window of this model.", "code": "context_length_exceeded"},
        {"message": "The input token count (1300000) exceeds the maximum number of tokens allowed (1048575)."},
        {"message": "prompt is too long: 210000 tokens > 200000 maximum"},
    ],
)
def test_a_prompt_that_is_too_long_is_told_apart_in_each_servers_words(error: dict[str, Any]) -> None:
    """Clients shorten their conversation for it, and for no other refusal."""
    refused = of_status(400, None, json.dumps({"error": error}).encode(), 4096).error
    assert isinstance(refused, ContextTooLong)


@pytest.mark.parametrize("message", ["The name exceeds the maximum allowed length.", "temperature is too high"])
def test_another_refusal_is_about_no_context(message: str) -> None:
    """Whatever length it is about."""
    refused = of_status(400, None, json.dumps({"error": {"message": message}}).encode(), 4096).error
    assert type(refused) is ValidationError


def test_a_reason_with_every_part_ends_nothing(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers give one with each, and the parts come slowly: whatever still holds a part is of the answer."""
    monkeypatch.setattr(call, "LAST_PATIENCE", 0.1)
    words = [part({"content": f"w{number} "}, finish_reason="stop") for number in range(6)]
    server.script.raw, server.script.gap = [*words, event("[DONE]")], 0.05
    assert opened(retries=0).submit(asking()).result().text == "".join(f"w{number} " for number in range(6))


def test_a_reason_of_the_servers_own_lifts_no_rule(server: FakeUpstream, opened: Open) -> None:
    """It is no stop string of the client's."""
    rules = AnswerRules("response_format", SCHEMA)
    server.script.raw = [part({"content": '{"b": 1}'}), part(finish_reason="stop", stop_reason="eos"), event("[DONE]")]
    with pytest.raises(UpstreamFailed):
        opened(retries=0).submit(asking(rules=rules)).result()
