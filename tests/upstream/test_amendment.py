"""What a server refuses that no client has asked for is sent again otherwise, and costs the client nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.errors import ContextTooLong, ValidationError
from engine.types import ANY_OBJECT, AnswerRules, ChatPrompt, TextPrompt, TokensPrompt
from settings.upstream_kinds import KINDS
from tests.fake_upstream import FakeUpstream, event
from tests.upstream.conftest import Open, asking
from tests.upstream.test_backend import SAID, SCHEMA
from tests.upstream.test_faults import failure_of
from upstream.amendment import MOST, room_left

NO_TEMPLATE = "chat_template is not supported for Mistral tokenizers."
TOO_LARGE = (  # as servers say it, with 4096 tokens of context and 3000 of the prompt
    "'max_tokens' or 'max_completion_tokens' is too large: 2000. This model's maximum context length is 4096 tokens "
    "and your request has 3000 input tokens (2000 > 4096 - 3000).",
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (3000 in the messages, "
    "2000 in the completion). Please reduce the length of the messages or completion.",
    "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 5000 "
    "tokens: 3000 tokens from the input messages and 2000 tokens for the completion.",
)

CAPS = (  # as providers say that an answer may have 1000 tokens at most
    "max_tokens is too large: 2000. This model supports at most 1000 completion tokens, whereas you provided 2000.",
    "Invalid 'max_completion_tokens': integer above maximum value. Expected a value <= 1000, but got 2000 instead.",
    "max_tokens: 2000 > 1000, which is the maximum allowed number of output tokens for claude-3-haiku-20240307",
    "Invalid max_tokens value, the valid range of max_tokens is [1, 1000]",
    "`max_tokens` must be less than or equal to `1000`, the maximum value for `max_tokens` is less than the "
    "`context_window` for this model",
    "Unable to submit request because it has a maxOutputTokens value of 2000 but the supported range is from 1 "
    "(inclusive) to 1001 (exclusive). Update the value and try again.",
)


def refuse(server: FakeUpstream, *messages: str) -> None:
    """Have the server refuse the next requests, each with the last of these words."""
    server.script.faults = ["400"] * len(messages)
    server.script.refusal = [json.dumps({"error": {"message": messages[-1]}}).encode()]


def bodies(server: FakeUpstream) -> list[Any]:
    return [heard.body for heard in server.heard]


@pytest.mark.parametrize(
    ("message", "field"),
    [(NO_TEMPLATE, "chat_template_kwargs"), ("Unknown field: stream_options", "stream_options")],
)
def test_a_field_of_ours_that_a_server_refuses_is_left_out_from_then_on(
    server: FakeUpstream, opened: Open, caplog: pytest.LogCaptureFixture, message: str, field: str
) -> None:
    """The client has not asked for it; the operator is told once."""
    backend = opened(retries=0)
    refuse(server, message)
    for _ in range(2):
        assert backend.submit(asking()).result().text == SAID
    assert [field in body for body in bodies(server)] == [True, False, False]
    assert [one.message for one in caplog.records if "left out" in one.message] == [
        f"avibe does not take {field}, which is left out from now on."
    ]


def test_what_a_server_refuses_within_a_stream_is_sent_again_too(server: FakeUpstream, opened: Open) -> None:
    """Its status was 200 by then, and no other attempt would be allowed."""
    server.script.faults = ["200"]
    server.script.refusal = [event({"error": {"message": TOO_LARGE[2], "type": "BadRequestError", "code": 400}})]
    generation = opened(retries=0).submit(asking("hello " * 100, max_tokens=2000, fit_context=True))
    assert generation.result().text == SAID
    assert [body["max_tokens"] for body in bodies(server)] == [2000, 1096]


def test_a_refusal_within_a_stream_teaches_nothing(server: FakeUpstream, opened: Open) -> None:
    """The status before it, which is 200, does not say that the server has taken the request."""
    backend = opened(retries=0)
    server.script.faults = ["200"] * 2
    server.script.refusal = [event({"error": {"message": "stream_options is wrong", "code": 400}})]
    assert isinstance(failure_of(backend.submit(asking())), ValidationError)
    backend.submit(asking()).result()
    assert ["stream_options" in body for body in bodies(server)] == [True, False, True]


def test_a_field_that_the_client_has_asked_for_is_not_left_out(server: FakeUpstream, opened: Open) -> None:
    """Its answer would be another one than was asked for."""
    backend = opened(retries=0)
    refuse(server, NO_TEMPLATE)
    prompt = ChatPrompt(({"role": "user", "content": "Hello"},), thinking=True)
    assert isinstance(failure_of(backend.submit(asking(prompt=prompt))), ValidationError)
    assert len(server.heard) == 1


def test_what_no_field_of_ours_was_the_cause_of_teaches_nothing(server: FakeUpstream, opened: Open) -> None:
    """A client whose words a refusal repeats could take the usage out of everybody's requests."""
    backend = opened(retries=0)
    refuse(server, *["what you said of stream_options is wrong"] * 2)
    assert isinstance(failure_of(backend.submit(asking("stream_options"))), ValidationError)
    assert backend.submit(asking()).result().text == SAID
    assert ["stream_options" in body for body in bodies(server)] == [True, False, True]


@pytest.mark.parametrize("message", TOO_LARGE)
def test_an_answer_may_take_what_the_server_says_is_left(server: FakeUpstream, opened: Open, message: str) -> None:
    """The estimate of the prompt was too low; the length that was asked for last is the one that is told."""
    refuse(server, message)
    generation = opened(retries=0).submit(asking("hello " * 100, max_tokens=2000, fit_context=True))
    assert generation.result().text == SAID
    assert [body["max_tokens"] for body in bodies(server)] == [2000, 1096]
    assert generation.max_tokens == 1096


@pytest.mark.parametrize("message", CAPS)
def test_an_answer_may_take_what_the_servers_model_makes_at_most(
    server: FakeUpstream, opened: Open, message: str
) -> None:
    """The client has not asked for more, or as a bound alone."""
    refuse(server, message)
    generation = opened(retries=0).submit(asking(max_tokens=2000, fit_context=True))
    assert generation.result().text == SAID
    assert [body["max_tokens"] for body in bodies(server)] == [2000, 1000]
    assert generation.max_tokens == 1000


@pytest.mark.parametrize("values", [{"max_tokens": 2000, "fit_context": False}, {"max_tokens": 900}])
@pytest.mark.parametrize("kind", ["vllm", "openai"])
def test_a_length_that_is_the_clients_own_gives_way_to_no_bound(
    server: FakeUpstream, opened: Open, values: dict[str, Any], kind: str
) -> None:
    """Nor is one within the bound that was refused all the same sent again."""
    refuse(server, CAPS[1])
    generation = opened(retries=0, kind=kind, takes=KINDS[kind]).submit(asking(**({"fit_context": True} | values)))
    assert isinstance(failure_of(generation), ValidationError)
    assert len(server.heard) == 1


def test_without_numbers_the_higher_estimate_of_the_prompt_counts(server: FakeUpstream, opened: Open) -> None:
    """Of Ollama and others, which say only that it is too long."""
    refuse(server, "the input exceeds the context length")
    opened(retries=0).submit(asking("x" * 6000, max_tokens=4000, fit_context=True)).result()
    first, second = (body["max_tokens"] for body in bodies(server))
    assert second < 4096 - 2000 < first


@pytest.mark.parametrize("values", [{"fit_context": False}, {"fit_context": True, "max_tokens": 900}])
def test_a_prompt_that_does_not_fit_is_refused(server: FakeUpstream, opened: Open, values: dict[str, Any]) -> None:
    """Also one whose length the client itself has set, and does not want to give way."""
    refuse(server, TOO_LARGE[0])
    generation = opened(retries=0).submit(asking(**({"max_tokens": 2000} | values)))
    assert isinstance(failure_of(generation), ContextTooLong)
    assert len(server.heard) == 1


def test_a_server_that_never_has_enough_is_asked_a_few_times(server: FakeUpstream, opened: Open) -> None:
    """Each time for less."""
    server.script.always = "400"
    names = "chat_template stream_options the input exceeds the context length"
    server.script.refusal = [names.encode()]
    assert isinstance(
        failure_of(opened(retries=0).submit(asking("x" * 3000, max_tokens=4000, fit_context=True))), ValidationError
    )
    assert 1 < len(server.heard) <= 1 + MOST


@pytest.mark.parametrize(
    ("said", "left"),
    [*((one.lower(), 1096) for one in TOO_LARGE), ("maximum context length is 4096 tokens", None), ("", None)],
)
def test_what_is_left_is_read_from_a_refusal(said: str, left: int | None) -> None:
    """Where it says both numbers."""
    assert room_left(said) == left


@pytest.mark.parametrize(("text", "least"), [("слово " * 1120, 1500), ("привет " * 1500, 100)])
def test_an_answer_to_a_long_prompt_is_not_cut_by_an_estimate(
    server: FakeUpstream, opened: Open, text: str, least: int
) -> None:
    """Five bytes of Russian are one token; by three, these prompts would leave one token, and none."""
    opened().submit(asking(text, max_tokens=2048, fit_context=True)).result()
    assert bodies(server)[0]["max_tokens"] >= least


def test_a_prompt_that_seems_not_to_fit_is_left_to_the_server(server: FakeUpstream, opened: Open) -> None:
    """It alone knows, and its own length of context may be another than the settings say."""
    opened().submit(asking("x" * 40_000, max_tokens=2048, fit_context=True)).result()
    assert bodies(server)[0]["max_tokens"] == 2048


@pytest.mark.parametrize(
    "refusal",
    [  # Mistral's, vLLM's of old, and one in words
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"], "input": 50}]},
        {"object": "error", "message": "[{'loc': ('body', 'max_completion_tokens'), 'msg': 'Extra inputs'}]"},
        {"error": {"message": "Unsupported parameter: 'max_completion_tokens'. Use 'max_tokens' instead."}},
    ],
)
def test_the_length_goes_by_its_older_name_where_the_newer_is_refused(
    server: FakeUpstream, opened: Open, refusal: object
) -> None:
    """From then on; no answer is left without a bound."""
    backend = opened(retries=0, kind="openai", takes=KINDS["openai"])
    server.script.faults, server.script.refusal = ["422"], [json.dumps(refusal).encode()]
    for _ in range(2):
        assert backend.submit(asking()).result().text == SAID
    told = [(body.get("max_completion_tokens"), body.get("max_tokens")) for body in bodies(server)]
    assert told == [(50, None), (None, 50), (None, 50)]


def test_a_length_that_does_not_fit_keeps_its_name(server: FakeUpstream, opened: Open) -> None:
    """A refusal of its value names it, too, and teaches nothing of it."""
    backend = opened(retries=0, kind="openai", takes=KINDS["openai"])
    for refusal, most in ((CAPS[1], 1000), (TOO_LARGE[0], 1096)):
        refuse(server, refusal)
        backend.submit(asking("hello " * 100, max_tokens=2000, fit_context=True)).result()
        first, second = bodies(server)[-2:]
        assert (first["max_completion_tokens"], second["max_completion_tokens"]) == (2000, most)
        assert "max_tokens" not in second


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", [None, True, False])
def test_the_settings_say_by_which_name_a_length_goes(
    server: FakeUpstream, opened: Open, kind: str, named: bool | None
) -> None:
    """The newer is OpenAI's; DeepSeek passes over it, and its answers would have no end."""
    capability = {"max_completion_tokens"}
    takes = KINDS[kind] if named is None else KINDS[kind] | capability if named else KINDS[kind] - capability
    opened(kind=kind, takes=takes).submit(asking()).result()
    newer = kind == "openai" if named is None else named
    sent = bodies(server)[0]
    assert (sent.get("max_completion_tokens"), sent.get("max_tokens")) == ((50, None) if newer else (None, 50))


@pytest.mark.parametrize("kind", ["openai", "gemini", "anthropic", "vllm", "ollama"])
def test_the_temperature_of_a_provider_is_its_own(server: FakeUpstream, opened: Open, kind: str) -> None:
    """Its newest models refuse every other one, and a request that names none has not asked for one."""
    backend = opened(kind=kind, takes=KINDS[kind])
    backend.submit(asking(temperature=0.7, names_temperature=False)).result()
    backend.submit(asking(temperature=0.7)).result()
    assert ["temperature" in body for body in bodies(server)] == [kind in ("vllm", "ollama"), True]


@pytest.mark.parametrize(
    ("kind", "rules", "told"),
    [
        ("openai", AnswerRules("response_format", ANY_OBJECT), {"type": "json_object"}),
        ("openai", AnswerRules("response_format", SCHEMA), {"schema": SCHEMA}),
        ("openai", AnswerRules("response_format", SCHEMA, strict_schema=False), {"schema": SCHEMA}),
        ("openai", AnswerRules("response_format", SCHEMA, strict_schema=True), {"schema": SCHEMA, "strict": True}),
        ("vllm", AnswerRules("response_format", SCHEMA), {"schema": SCHEMA, "strict": True}),
        ("vllm", AnswerRules("response_format", ANY_OBJECT), {"schema": ANY_OBJECT, "strict": True}),
    ],
)
def test_a_provider_is_strict_where_the_client_asks_for_it(
    server: FakeUpstream, opened: Open, kind: str, rules: AnswerRules, told: dict[str, Any]
) -> None:
    """It refuses most schemas as strict ones; each answer is checked in any case."""
    server.script.deltas = [{"content": '{"a": 1}'}]
    opened(kind=kind, takes=KINDS[kind]).submit(asking(rules=rules)).result()
    told_format = bodies(server)[0]["response_format"]
    shown = told_format.get("json_schema", told_format)
    assert {name: value for name, value in shown.items() if name != "name"} == told


def test_a_plain_text_has_no_field_of_chats_to_be_left_out(server: FakeUpstream, opened: Open) -> None:
    """Nothing is sent again as it was, and nothing is learned for chats."""
    backend = opened(retries=0)
    refuse(server, NO_TEMPLATE)
    assert isinstance(failure_of(backend.submit(asking(prompt=TextPrompt("Hello")))), ValidationError)
    assert backend.submit(asking()).result().text == SAID
    assert ["chat_template_kwargs" in body for body in bodies(server)] == [False, True]


def test_what_was_learned_of_plain_chats_takes_no_reasoning_away(server: FakeUpstream, opened: Open) -> None:
    """A client that asks for it is refused, and not answered without."""
    backend = opened(retries=0)
    refuse(server, NO_TEMPLATE)
    backend.submit(asking()).result()
    refuse(server, NO_TEMPLATE)
    prompt = ChatPrompt(({"role": "user", "content": "Hello"},), thinking=True)
    assert isinstance(failure_of(backend.submit(asking(prompt=prompt))), ValidationError)
    assert bodies(server)[-1]["chat_template_kwargs"] == {"enable_thinking": True}


def test_a_field_is_not_left_out_for_what_fewer_tokens_have_mended(server: FakeUpstream, opened: Open) -> None:
    """A refusal about the context that repeats a client's words names fields that were not its cause."""
    backend = opened(retries=0)
    refuse(server, *["stream_options: the input exceeds the context length"] * 2)
    assert backend.submit(asking("x" * 3000, max_tokens=4000, fit_context=True)).result().text == SAID
    backend.submit(asking()).result()
    assert ["stream_options" in body for body in bodies(server)] == [True, False, False, True]


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 2048 output tokens and your prompt "
        "contains at least 2049 input tokens, for a total of at least 4097 tokens.",
        "You passed 2049 input tokens and requested 2048 output tokens. However, the model's context length is only "
        "4096 tokens, resulting in a maximum input length of 2048 tokens.",
    ],
)
def test_a_prompt_that_a_server_has_not_counted_to_its_end_is_estimated(
    server: FakeUpstream, opened: Open, message: str
) -> None:
    """vLLM before 0.32 stops one token beyond what would fit, and says that number each time."""
    refuse(server, message)
    opened(retries=0).submit(asking("x" * 8500, max_tokens=2048, fit_context=True)).result()
    assert [body["max_tokens"] for body in bodies(server)] == [2048, pytest.approx(1250, abs=30)]


def test_token_ids_are_counted_and_not_estimated(server: FakeUpstream, opened: Open) -> None:
    """Each is a token, whatever its bytes."""
    prompt = TokensPrompt(tuple(range(3000)))
    opened().submit(asking(prompt=prompt, max_tokens=2048, fit_context=True)).result()
    assert bodies(server)[0]["max_tokens"] == 1096
