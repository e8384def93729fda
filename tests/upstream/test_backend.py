"""A model that a server elsewhere answers for: good answers, what is passed on, capacity, and the end."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from engine.errors import ContextTooLong, NotReady, Overloaded, RequestAborted, Unsupported, UpstreamFailed
from engine.types import AnswerRules, ChatPrompt, DetokenizeRequest, EncodedImage, Spent, TextPrompt, TokenizeRequest
from settings.upstream_kinds import KINDS
from tests.fake_upstream import WORDS, FakeUpstream
from tests.fakes import ScriptedBackend
from tests.upstream.conftest import Open, asking
from upstream.request_body import LONG_ARGUMENTS
from upstream.standing_in import StandingIn

SAID = "".join(f"{word} " for word in WORDS)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def call(index: int, arguments: str = "{}") -> dict[str, object]:
    """Return the part of an answer with a whole call."""
    function = {"name": "look", "arguments": arguments}
    return {"tool_calls": [{"index": index, "id": str(index), "function": function}]}


@pytest.mark.parametrize("arguments", ["null", "[1]", "5", '"{\\"a\\": 1}"', '{"a": 1}}'])
def test_the_arguments_of_a_free_call_are_an_object_too(server: FakeUpstream, opened: Open, arguments: str) -> None:
    """Its schema is not looked at; what is no object is asked for again, and counts against no server."""
    server.script.deltas, backend = [call(0, arguments)], opened(retries=2, breaker_failures=1)
    with pytest.raises(UpstreamFailed):
        backend.submit(asking(rules=AnswerRules(arguments={"look": SCHEMA}))).result()
    assert (len(server.heard), backend.reports()[0].state) == (3, "closed")
    server.script.deltas = [call(0, " ")]
    assert '"arguments":  {}' in backend.submit(asking(rules=AnswerRules(arguments={"look": SCHEMA}))).result().text


def test_an_answer_is_the_servers_with_its_usage(server: FakeUpstream, opened: Open) -> None:
    """Text, finish reason and tokens are those that the server tells."""
    backend = opened()
    completion = backend.submit(asking()).result()
    assert (completion.text, completion.finish_reason) == (SAID, "stop")
    assert (completion.prompt_tokens, completion.output_tokens, completion.cached_tokens) == (11, len(WORDS), 3)
    stats = backend.stats()
    assert (stats.prompt_tokens_total, stats.generation_tokens_total, stats.num_requests_running) == (11, 11, 0)


def test_a_server_that_tells_no_usage_is_estimated(server: FakeUpstream, opened: Open) -> None:
    """Budgets are charged all the same, rather too much than too little."""
    server.script.usage = False
    completion = opened().submit(asking()).result()
    assert completion.prompt_tokens > 0
    assert completion.output_tokens >= len(WORDS)


def test_a_stream_has_the_servers_parts(server: FakeUpstream, opened: Open) -> None:
    """Each event is a part; they are there from the first on, though nobody listened yet."""
    generation = opened().submit(asking())
    generation.wait_for_begin()
    assert "".join(piece.text for piece in generation.pieces()) == SAID
    assert generation.result().text == SAID


def test_the_server_is_told_what_is_asked_for(server: FakeUpstream, opened: Open) -> None:
    """Values that are not neutral, the ids and the key; nothing else."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    wanted = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ("x",), "presence_penalty": 0.5, "top_k": 3}
    opened(key="a-secret", model="org/m").submit(asking(request_id="id-1", trace=trace, **wanted)).result()
    (heard,) = server.heard
    assert heard.path == "/v1/chat/completions"
    assert (heard.headers["authorization"], heard.headers["x-request-id"]) == ("Bearer a-secret", "id-1")
    assert heard.headers["traceparent"] == trace
    assert heard.body == {
        "model": "org/m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "Hello"}],
        "chat_template_kwargs": {"enable_thinking": False},
        "max_tokens": 50,
        **wanted,
        "stop": ["x"],
    }


def test_images_tools_and_a_schema_are_passed_on(server: FakeUpstream, opened: Open) -> None:
    """In the form of OpenAI's chat completions."""
    server.script.deltas = [{"content": '{"a": 1}'}]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    content = [{"type": "text", "text": "What?"}, {"type": "image"}]
    prompt = ChatPrompt(({"role": "user", "content": content},), (EncodedImage(PNG, 1, 1),), (tool,))
    rules = AnswerRules("response_format", SCHEMA, arguments={"look": {"type": "object"}}, parallel=False)
    opened(vision=True).submit(asking(prompt=prompt, rules=rules)).result()
    body = server.heard[0].body
    assert body["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert body["tools"] == [tool]
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert body["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ('{"at": 1.50}', '{"at": 1.50}'),
        ('{"at": "у моря", "by": "the sh', '{"at": "у моря"}'),
        ('{"at', "{}"),
        ("[1", "{}"),
        ('{"at": NaN}', "{}"),
        ('{"at": 1e999, "by": "', "{}"),
        ('{"at": "\ud800', "{}"),
        ("the sea", "{}"),
        (LONG := '{"at": "' + "x" * LONG_ARGUMENTS + '"} ', LONG),
        ('{"at": "' + "x" * LONG_ARGUMENTS, "{}"),
        ("x" * LONG_ARGUMENTS + "}", "{}"),
    ],
)
def test_a_call_of_the_history_has_an_object_as_its_arguments(
    server: FakeUpstream, opened: Open, sent: str, told: str
) -> None:
    """Of one that was cut, what there is: servers fail on anything else. Whole ones stay; of long ones, ends tell."""
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": sent}}
    past = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "content": "found", "tool_call_id": "c"}
    opened().submit(asking(prompt=ChatPrompt(({"role": "user", "content": "Look."}, past, result)))).result()
    shown = {**call, "function": {"name": "look", "arguments": told}}
    assert server.heard[0].body["messages"][1:] == [{**past, "content": None, "tool_calls": [shown]}, result]


@pytest.mark.parametrize(
    ("kind", "alternatives", "chat", "completion"),
    [
        ("vllm", 0, {"logprobs": True}, {"logprobs": 0}),
        ("vllm", 2, {"logprobs": True, "top_logprobs": 2}, {"logprobs": 2}),
        ("llamacpp", 0, {"logprobs": True, "top_logprobs": 1}, {"logprobs": 1}),
        ("llamacpp", 2, {"logprobs": True, "top_logprobs": 2}, {"logprobs": 2}),
    ],
)
def test_a_server_is_asked_for_as_many_alternatives_as_it_must_be(
    server: FakeUpstream, opened: Open, kind: str, alternatives: int, chat: object, completion: object
) -> None:
    """llama.cpp takes 0 for no log probabilities, and none in a chat for 20."""
    backend = opened(kind=kind, takes=KINDS[kind])
    for prompt in ({}, {"prompt": TextPrompt("x")}):
        backend.submit(asking(logprobs=alternatives, **prompt)).result()
    asked = [{name: value for name, value in one.body.items() if "logprobs" in name} for one in server.heard]
    assert asked == [chat, completion]


@pytest.mark.parametrize(
    ("kind", "names", "choice"),
    [
        ("vllm", ["look", "find"], {"type": "function", "function": {"name": "find"}}),
        ("llamacpp", ["find"], "required"),
    ],
)
def test_a_function_that_must_be_called_is_named_as_the_server_takes_it(
    server: FakeUpstream, opened: Open, kind: str, names: list[str], choice: object
) -> None:
    """llama.cpp refuses a name, so that it is given that function alone."""
    tools = tuple({"type": "function", "function": {"name": name}} for name in ("look", "find"))
    rules = AnswerRules(call="find", arguments={"look": {}, "find": {}})
    call = {"index": 0, "id": "x", "function": {"name": "find", "arguments": "{}"}}
    server.script.deltas, server.script.finish = [{"tool_calls": [call]}], "tool_calls"
    prompt = ChatPrompt(({"role": "user", "content": "Look."},), tools=tools)
    opened(kind=kind, takes=KINDS[kind]).submit(asking(prompt=prompt, rules=rules)).result()
    body = server.heard[0].body
    assert ([tool["function"]["name"] for tool in body["tools"]], body["tool_choice"]) == (names, choice)


@pytest.mark.parametrize(
    ("kind", "values", "field"),
    [
        ("openai", {"top_k": 5}, "top_k"),
        ("openai", {"min_p": 0.1}, "min_p"),
        ("openai", {"repetition_penalty": 1.1}, "repetition_penalty"),
        ("openai", {"prompt": TextPrompt("x")}, "prompt"),
        ("anthropic", {"seed": 1}, "seed"),
        ("anthropic", {"rules": AnswerRules("response_format", SCHEMA)}, "response_format"),
        ("ollama", {"logprobs": 1}, "logprobs"),
        ("ollama", {"rules": AnswerRules(call="required", arguments={"a": {}})}, "tool_choice"),
        ("gemini", {"logit_bias": {1: 2.0}}, "logit_bias"),
        ("vllm", {"return_token_ids": True}, "return_token_ids"),
        ("vllm", {"logprobs": 1, "return_tokens_as_token_ids": True}, "return_tokens_as_token_ids"),
        ("vllm", {"echo": True}, "echo"),
    ],
)
def test_what_the_server_does_not_take_is_refused_by_name(
    server: FakeUpstream, opened: Open, kind: str, values: dict[str, object], field: str
) -> None:
    """Before the server is asked, since it would ignore the field."""
    backend = opened(kind=kind, takes=KINDS[kind])
    with pytest.raises(Unsupported) as refused:
        backend.submit(asking(**values))
    assert refused.value.param == field
    assert not server.heard
    assert backend.stats().num_requests_running == 0


def test_tokens_are_the_servers_own(opened: Open) -> None:
    """They are neither counted nor spelled here, and a refusal says so."""
    backend = opened()
    with pytest.raises(Unsupported):
        backend.tokenize(TokenizeRequest(TextPrompt("x")))
    with pytest.raises(Unsupported):
        backend.detokenize(DetokenizeRequest((1,)))


def test_an_answer_that_breaks_its_schema_is_none(server: FakeUpstream, opened: Open) -> None:
    """It is asked for again, and is a typed error in the end; one that is cut by its length may be a part."""
    rules = AnswerRules("response_format", SCHEMA)
    server.script.deltas = [{"content": '{"a": "one"}'}]
    with pytest.raises(UpstreamFailed):
        opened(retries=1).submit(asking(rules=rules)).result()
    assert len(server.heard) == 2
    server.script.finish = "length"
    assert opened().submit(asking(rules=rules)).result().finish_reason == "length"


@pytest.mark.parametrize(
    ("rules", "deltas"),
    [
        (AnswerRules(choice=("yes", "no")), [{"content": "maybe"}]),
        (AnswerRules(arguments={"look": {}}, parallel=False), [call(0), call(1)]),
    ],
)
def test_an_answer_that_breaks_a_rule_is_none(
    server: FakeUpstream, opened: Open, rules: AnswerRules, deltas: list[dict[str, object]]
) -> None:
    """A text that is none of those to choose from, and a second call where one is allowed."""
    backend = opened(retries=0)
    server.script.deltas = deltas
    with pytest.raises(UpstreamFailed):
        backend.submit(asking(rules=rules)).result()


@pytest.mark.parametrize(
    ("rules", "delta"),
    [
        (AnswerRules(choice=("yes", "no")), {"content": "no"}),
        (AnswerRules(arguments={"look": {}}, parallel=False), call(0)),
    ],
)
def test_an_answer_that_keeps_a_rule_is_given(
    server: FakeUpstream, opened: Open, rules: AnswerRules, delta: dict[str, object]
) -> None:
    """One of the texts, and one call."""
    server.script.deltas = [delta]
    assert opened(retries=0).submit(asking(rules=rules)).result().finish_reason == "stop"


def test_calls_are_the_text_that_templates_write(server: FakeUpstream, opened: Open) -> None:
    """So that the same parser reads them, whoever has made them."""
    server.script.deltas = [
        {"content": "Let me see."},
        {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "look", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"q": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"b"}'}}]},
        {"tool_calls": [{"index": 1, "function": {"name": "stop"}}]},
    ]
    server.script.finish = "tool_calls"
    rules = AnswerRules(arguments={"look": {}, "stop": {}})
    completion = opened().submit(asking(rules=rules)).result()
    first = '<tool_call>\n{"name": "look", "arguments": {"q": "b"}}\n</tool_call>'
    second = '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'
    assert completion.text == f"Let me see.{first}\n{second}"
    assert completion.finish_reason == "stop"


def test_a_client_that_leaves_closes_the_connection(server: FakeUpstream, opened: Open) -> None:
    """By which the server stops generating; what it made so far is accounted."""
    server.script.gap = 0.05
    server.script.words *= 1000
    generation = opened().submit(asking())
    assert next(generation.pieces()).text
    generation.abort()
    server.wait_for(lambda server: server.heard[0].left)
    with pytest.raises(RequestAborted):
        generation.result()
    assert generation.spent.output_tokens > 0


def test_one_client_leaves_room_for_others(server: FakeUpstream, opened: Open) -> None:
    """A client may have seven eighths of what may be in flight; beyond all of it everybody is refused at once."""
    server.script.wait = 30
    backend = opened(capacity=8)
    held = [backend.submit(asking(client="greedy")) for _ in range(7)]
    with pytest.raises(Overloaded):
        backend.submit(asking(client="greedy"))
    held.append(backend.submit(asking(client="modest")))
    assert isinstance(backend.would_refuse("third"), Overloaded)
    assert backend.most_at_once() == 7
    for one in held:
        one.abort()


def test_a_batch_leaves_half_of_the_capacity(server: FakeUpstream, opened: Open) -> None:
    """And is woken once there is room again."""
    server.script.wait = 30
    backend, woken = opened(capacity=2), threading.Event()
    held = backend.submit_when_free(asking(), True, woken.set)
    assert held is not None
    assert backend.submit_when_free(asking(), False, woken.set) is None
    held.abort()
    assert woken.wait(30)


def test_batches_of_many_clients_leave_room_for_others(server: FakeUpstream, opened: Open) -> None:
    """They do not fill the other half either, however many there are; the next is woken when one of them has ended."""
    server.script.wait = 30
    backend, woken = opened(capacity=8), threading.Event()
    taken = [backend.submit_when_free(asking(client=f"job-{n}"), True, woken.set) for n in range(10)]
    held = [one for one in taken if one is not None]
    assert len(held) == 6
    held += [backend.submit(asking(client=f"new-{n}")) for n in range(2)]
    for one in held:
        one.abort()
    assert woken.wait(30)


def test_batches_of_one_client_leave_room_for_those_of_another(server: FakeUpstream, opened: Open) -> None:
    """Of what all batches may hold, one client leaves as much to others as it holds beyond the first half."""
    server.script.wait = 30
    backend = opened(capacity=8)
    taken = [
        backend.submit_when_free(asking(client=client), True, lambda: None) for client in (*["greedy"] * 9, "other")
    ]
    assert [one is not None for one in taken] == [True] * 5 + [False] * 4 + [True]
    for one in taken:
        if one is not None:
            one.abort()


def test_a_batch_that_has_ended_is_not_woken_by_what_stands_in(server: FakeUpstream, opened: Open) -> None:
    """It stops waiting wherever it waits, so that the next one has the room."""
    server.script.wait = 30
    own, elsewhere, woken = ScriptedBackend(), opened(capacity=2, role="spare"), list[str]()
    own.refusal, backend = NotReady("It is loading."), StandingIn(own, elsewhere)
    wakes = [partial(woken.append, name) for name in ("ended", "next")]
    held = elsewhere.submit(asking())
    for wake in wakes:
        assert backend.submit_when_free(asking(), False, wake) is None
    backend.stop_waiting(wakes[0])
    held.abort()
    with pytest.raises(RequestAborted):
        held.result()
    assert woken == ["next"]


def test_what_stands_in_adds_to_what_one_client_may_have(opened: Open) -> None:
    """Since it takes what the first one refuses; while one of them is not known, neither is the sum."""
    own = ScriptedBackend()
    backend = StandingIn(own, opened(capacity=8, role="spare"))
    assert backend.most_at_once() is None
    own.most = 4
    assert backend.most_at_once() == 11


def test_a_connection_serves_one_request_after_the_other(server: FakeUpstream, opened: Open) -> None:
    """Though the end of a response comes apart from that of its answer; the client does not wait for it."""
    server.script.end_apart = 0.1
    backend = opened()
    for number in range(1, 4):
        assert backend.submit(asking()).result().text == SAID
        server.wait_for(lambda server, many=number: sum(one.done for one in server.heard) == many)  # type: ignore[misc]
    assert server.accepted == 1  # that of the probe at the start


def test_a_server_that_does_not_end_its_response_is_not_waited_for(server: FakeUpstream, opened: Open) -> None:
    """The answer is whole, and the connection is closed soon after it."""
    server.script.end_apart = 3600
    backend = opened()
    assert backend.submit(asking()).result().text == SAID
    server.wait_for(lambda server: server.heard[0].left)
    assert backend.submit(asking()).result().text == SAID
    assert backend.reports()[0].failures == {}


def test_a_stop_ends_what_is_left_and_leaves_nothing(server: FakeUpstream, opened: Open) -> None:
    """No thread, no connection, no open answer."""
    server.script.wait = 30
    before = set(threading.enumerate())
    backend = opened()
    generation = backend.submit(asking())
    server.wait_for(lambda server: server.heard)
    backend.drain()
    with pytest.raises(NotReady):
        backend.submit(asking())
    backend.stop(0)
    with pytest.raises(RequestAborted):
        generation.result()
    assert set(threading.enumerate()) <= before
    server.wait_for(lambda server: not server.connections)


def test_a_prompt_that_cannot_fit_is_not_sent(server: FakeUpstream, opened: Open) -> None:
    """What is certain is refused here; the rest is for the server to say, in our words."""
    backend = opened(max_model_len=64)
    with pytest.raises(ContextTooLong):
        backend.submit(asking("x" * 100_000))
    server.script.faults = ["too long"]
    with pytest.raises(ContextTooLong) as refused:
        backend.submit(asking()).result()
    assert refused.value.max_model_len == 64
    assert len(server.heard) == 1


def test_what_failed_before_any_text_cost_nothing(server: FakeUpstream, opened: Open) -> None:
    """A request that no server answered is not charged."""
    backend = opened()
    server.script.always = "500"
    generation = backend.submit(asking())
    with pytest.raises(UpstreamFailed):
        generation.result()
    assert generation.spent == Spent()
