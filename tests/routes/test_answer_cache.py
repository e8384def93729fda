"""The answer cache over scripted models: who is answered from it, with what, and who never is."""

import json
import threading
from dataclasses import replace

import pytest

from config import load_settings
from edge.route_table import ROUTES, Budget
from edge.services import KEY
from engine.errors import ModelError
from engine.types import TokenLogprob
from routes.answer_cache import AnswerCache
from tests.fakes import Clock, image_bytes, multipart
from tests.good_requests import call, good_request

OWN, CHAT, TEXT, RESPONSES = "/api/v1/text/generate", "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, BATCH, IMAGE = "/v1/messages", "/api/v1/text/batch", "/api/v1/image/analyze"
HELLO = [{"role": "user", "content": "Hello"}]
LOGPROBS = [TokenLogprob(5, "An", -0.5, ((5, "An", -0.5), (6, "No", -1.5))), TokenLogprob(7, " answer.", -0.1)]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'
# What an answer has of its own, however equal the requests are.
OWN_FIELDS = {"id", "created", "created_at", "completed_at", "request_id", "metrics", "call_id", "item_id", "signature"}


@pytest.fixture
def environ(environ):
    return environ | {"ANSWER_CACHE_MIB": "1"}


def same(value):
    """Return a body, or the events of a stream, without what differs between equal answers."""
    if isinstance(value, list):
        return [same(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: same(item) for name, item in value.items() if name not in OWN_FIELDS}
    for usage in (kept.get("usage"), kept.get("message", {}).get("usage") if "message" in kept else None):
        if usage:
            # Of the prompt's tokens, more are cached the second time.
            total = usage.get("input_tokens", 0) + usage.get("cache_read_input_tokens", 0)
            usage.update({"input_tokens": total, "cache_read_input_tokens": 0})
            usage.pop("prompt_tokens_details", None), usage.pop("input_tokens_details", None)
    return kept


def shown(response):
    """Return what a response says, whole or in events."""
    if response.mimetype != "text/event-stream":
        return same(response.json)
    lines = [line for line in response.text.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]
    return [same(json.loads(line.removeprefix("data: "))) for line in lines]


def asked(path, **fields):
    """Return the fields of a deterministic request that the route answers well."""
    return good_request(path)["json"] | {"temperature": 0} | fields


def ask(client, path, **fields):
    """Return the response to a deterministic request, read to its end."""
    return client.post(path, json=asked(path, **fields), buffered=True)


def twice(client, path, **fields):
    """Return the responses to two equal requests."""
    return [ask(client, path, **fields) for _ in range(2)]


def cache_of(response):
    return response.headers.get("X-Cache")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [OWN, CHAT, TEXT, RESPONSES, MESSAGES])
def test_an_equal_request_has_the_same_answer(client, avibe, path, stream):
    """In every protocol, whole and streamed, without the model."""
    first, second = twice(client, path, stream=stream)
    assert [cache_of(first), cache_of(second)] == ["miss", "hit"]
    assert shown(first) == shown(second)
    assert "An answer." in second.text
    assert len(avibe.submitted) == 1


@pytest.mark.parametrize("path", [OWN, CHAT, TEXT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("streamed_first", [False, True])
def test_a_stream_and_a_whole_answer_are_one_request(app, client, avibe, path, streamed_first):
    """Either is answered from what the other has left."""
    ways = [ask(client, path, stream=stream) for stream in (streamed_first, not streamed_first)]
    assert [cache_of(one) for one in ways] == ["miss", "hit"]
    assert len(avibe.submitted) == 1
    app.extensions[KEY] = replace(app.extensions[KEY], answers=AnswerCache(0))
    assert shown(ways[1]) == shown(ask(client, path, stream=not streamed_first))


def test_every_route_that_generates_reads_the_cache(environ, models, machine):
    """The pages' forms too, where the default temperature is 0; but not the batch, whose texts share their headers."""
    from app_production import create_app

    client = create_app(load_settings(environ | {"TEMPERATURE": "0"}, None), models, machine).test_client()
    names = [name for name, row in ROUTES.items() if row.budget is Budget.GENERATION and row.protocol]
    found = {name: [cache_of(call(client, name)) for _ in range(2)] for name in names}
    assert found.pop(f"POST {BATCH}") == [None, None]
    assert {name: ["miss", "hit"] for name in found} == found
    assert {f"POST {path}" for path in (OWN, IMAGE, CHAT, TEXT, RESPONSES, MESSAGES, "/avibe", "/avision")} == {*found}


def lines_of(client, *prompts):
    """Return the lines of a batch, in the order of its prompts."""
    sent = client.post(BATCH, json={"prompts": list(prompts)}).text
    return sorted((json.loads(line) for line in sent.splitlines() if line), key=lambda line: line["index"])


def test_texts_of_a_batch_are_found_and_kept(client, avibe):
    """Each by itself, also where it was asked for alone; an answer from the cache is as the model gave it."""
    client.post(OWN, json=asked(OWN, prompt="alone"))
    fixed = [{"prompt": prompt, "temperature": 0} for prompt in ("alone", "new", "")]
    before = [line.get("cache") for line in lines_of(client, *fixed, {"prompt": "alone", "temperature": 1})]
    assert before == ["hit", "miss", None, None]
    again = lines_of(client, *fixed)
    assert [line.get("cache") for line in again] == ["hit", "hit", None]
    assert cache_of(client.post(OWN, json=asked(OWN, prompt="new"))) == "hit"
    assert len(avibe.submitted) == 3
    whole = client.post(OWN, json=asked(OWN, prompt="new")).json
    assert again[1]["data"] == whole["data"]
    assert again[1]["metrics"]["generation_time"] == 0


def test_a_batch_that_fails_keeps_nothing(client, avibe):
    """The next one asks the model again."""
    avibe.failure = ModelError("It failed.")
    assert "cache" not in lines_of(client, {"prompt": "a", "temperature": 0})[0]
    avibe.failure = None
    assert lines_of(client, {"prompt": "a", "temperature": 0})[0]["cache"] == "miss"


def test_an_image_is_part_of_the_request(client, avision):
    """Equal bytes are found, other ones are not."""
    blue = multipart([("prompt", "Hello"), ("temperature", "0"), ("image", (image_bytes("blue"), "a.png"))])
    red = multipart([("prompt", "Hello"), ("temperature", "0"), ("image", (image_bytes("red"), "a.png"))])
    assert [cache_of(client.post(IMAGE, **one)) for one in (blue, red, blue)] == ["miss", "miss", "hit"]
    assert len(avision.submitted) == 2


def test_usage_says_that_nothing_was_computed(client):
    """All tokens of the prompt are cached ones; the counts are those of the answer; there was no time to speak of."""
    usage = twice(client, CHAT)[1].json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 5)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 7}
    assert twice(client, MESSAGES)[1].json["usage"]["cache_read_input_tokens"] == 7
    figures = twice(client, OWN)[1].json["metrics"]
    assert (figures["generation_time"], figures["tokens_per_second"]) == (0.0, 0.0)


@pytest.mark.parametrize("stream", [False, True])
def test_details_are_kept(client, avibe, stream):
    """Log probabilities, ids of tokens, the end by length."""
    avibe.logprobs, avibe.token_ids, avibe.finish_reason = LOGPROBS, (5, 7), "length"
    fields = {"logprobs": True, "top_logprobs": 1, "return_token_ids": True, "stream": stream}
    first, second = twice(client, CHAT, **fields)
    assert shown(first) == shown(second)
    assert '"length"' in second.text
    assert '"token_ids":[5,7]' in second.text.replace(" ", "")
    assert first.headers["X-Max-Tokens"] == second.headers["X-Max-Tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_shown_again(client, avibe, stream):
    """With `echo`, and the log probabilities of its tokens."""
    avibe.echo, avibe.logprobs = Shown(), LOGPROBS[1:]
    first, second = twice(client, TEXT, echo=True, logprobs=1, stream=stream)
    assert shown(first) == shown(second)
    assert "The prompt." in second.text


class Shown:
    """An echo whose owner is gone after the answer."""

    text = "The prompt."
    logprobs = LOGPROBS[:1]


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_made_again(client, avibe, path, stream):
    """With the same arguments, and ids of their own."""
    avibe.text = CALL
    tools = {CHAT: TOOLS, RESPONSES: [TOOLS[0]["function"] | {"type": "function"}]}
    tools[MESSAGES] = [{"name": "look", "input_schema": {"type": "object"}}]
    first, second = twice(client, path, tools=tools[path], stream=stream)
    assert shown(first) == shown(second)
    assert cache_of(second) == "hit"
    assert "look" in second.text
    assert first.text != second.text


def test_parts_come_as_they_came(app, client, avibe):
    """With the count of the tokens that are reasoning, which are known from the whole answer."""
    avibe.hold, avibe.token_offsets = True, (0, 7, 11, 12, 15, 16, 24, 26, 29)
    fields = asked(RESPONSES, stream=True, reasoning={"effort": "high"})

    def answer():
        avibe.wait_for(lambda backend: backend.submitted)
        request_id = avibe.only.request_id
        for text in ("<think>Well", ", so.</think>", "It is"):
            avibe.push(request_id, text, token_ids=(1, 2))
        avibe.text = " it."
        avibe.finish(request_id)

    thread = threading.Thread(target=answer)
    thread.start()
    first = client.post(RESPONSES, json=fields)
    events = shown(first)
    thread.join(60)
    second = client.post(RESPONSES, json=fields)
    assert cache_of(second) == "hit"
    assert events == shown(second)
    assert events[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] == 6


def test_several_answers_are_kept_together(client, avibe):
    """One answer less is another request."""
    for n, found in ((2, "miss"), (2, "hit"), (1, "miss")):
        response = ask(client, CHAT, n=n)
        assert cache_of(response) == found
        assert len(response.json["choices"]) == n
    assert len(avibe.submitted) == 3


@pytest.mark.parametrize("fields", [{"temperature": 1}, {"temperature": 0.01, "top_p": 0.5}, {"temperature": None}])
def test_what_is_drawn_at_random_is_never_kept(client, avibe, fields):
    """Nor does the answer say that it might be."""
    responses = twice(client, CHAT, **fields)
    assert [cache_of(one) for one in responses] == [None, None]
    assert len(avibe.submitted) == 2


def test_a_seed_is_deterministic(client, avibe):
    """At any temperature; another seed is another request."""
    found = [cache_of(ask(client, CHAT, temperature=1, seed=seed)) for seed in (1, 1, 2)]
    assert found == ["miss", "hit", "miss"]


@pytest.mark.parametrize(
    "other",
    [
        {"max_tokens": 3},
        {"messages": [*HELLO, {"role": "assistant", "content": "Yes?"}, *HELLO]},
        {"stop": ["x"]},
        {"logit_bias": {"5": 1}},
        {"top_k": 4},
        {"frequency_penalty": 0.5},
        {"min_tokens": 2},
        {"logprobs": True},
        {"tools": TOOLS},
        {"return_token_ids": True},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"seed": 3},
    ],
)
def test_another_request_is_another_answer(client, avibe, other):
    """Whatever differs."""
    ask(client, CHAT)
    assert cache_of(ask(client, CHAT, **other)) == "miss"
    assert len(avibe.submitted) == 2


def test_accounts_never_share(environ, models, machine, avibe):
    """What one has asked, no other can find out from the cache."""
    from app_production import create_app

    client = create_app(load_settings(environ | {"TRUSTED_PROXIES": "1"}, None), models, machine).test_client()
    for address, found in (("1.1.1.1", "miss"), ("2.2.2.2", "miss"), ("1.1.1.1", "hit")):
        response = client.post(CHAT, json=asked(CHAT), headers={"X-Forwarded-For": address})
        assert cache_of(response) == found
    assert len(avibe.submitted) == 2


def test_another_checkpoint_has_answers_of_its_own(client, avibe):
    """By its name, and by whatever else is known of it."""
    assert [cache_of(one) for one in twice(client, CHAT, top_k=5, max_tokens=9)] == ["miss", "hit"]
    for change in ({"served_id": "avibe-2"}, {"generation_defaults": {"top_k": 3.0}}, {"max_model_len": 8192}):
        avibe._info = replace(avibe.info, **change)
        assert [cache_of(one) for one in twice(client, CHAT, top_k=5, max_tokens=9)] == ["miss", "hit"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_is_not_kept(client, avibe, stream):
    """Neither before nor during the answer."""
    avibe.failure = ModelError("It failed.")
    ask(client, CHAT, stream=stream).get_data()
    avibe.failure = None
    assert cache_of(ask(client, CHAT, stream=stream)) == "miss"


def test_an_answer_that_was_left_is_not_kept(client, avibe):
    """A client that goes in the middle leaves nothing for the next one."""
    avibe.hold = True
    response = client.post(CHAT, json=asked(CHAT, stream=True), buffered=False)
    avibe.push(avibe.only.request_id, "An")
    events = iter(response.response)
    next(events)
    response.close()
    avibe.hold = False
    second = ask(client, CHAT)
    assert cache_of(second) == "miss"
    assert second.json["choices"][0]["message"]["content"] == "An answer."


def test_two_at_once_are_both_answered(app, client, avibe):
    """Neither waits for the other; the next one is a hit."""
    avibe.hold = True
    found = []

    def ask_once():
        found.append(cache_of(ask(app.test_client(), CHAT)))

    threads = [threading.Thread(target=ask_once) for _ in range(2)]
    for thread in threads:
        thread.start()
    avibe.wait_for(lambda backend: len(backend.submitted) == 2)
    for request in avibe.submitted:
        avibe.finish(request.request_id)
    for thread in threads:
        thread.join(60)
    assert found == ["miss", "miss"]
    assert cache_of(ask(client, CHAT)) == "hit"


def test_an_hour_ends_it(app, client):
    """Nothing that was asked stays longer."""
    clock = Clock()
    app.extensions[KEY] = replace(app.extensions[KEY], answers=AnswerCache(1 << 20, clock=clock))
    assert [cache_of(one) for one in twice(client, CHAT)] == ["miss", "hit"]
    clock.advance(3600)
    assert cache_of(ask(client, CHAT)) == "miss"


def test_a_hit_is_a_request(environ, models, machine):
    """It is charged to the rate limit."""
    from app_production import create_app

    client = create_app(load_settings(environ | {"RATE_LIMIT_PER_MINUTE": "2"}, None), models, machine).test_client()
    codes = [ask(client, CHAT).status_code for _ in range(3)]
    assert codes == [200, 200, 429]


def test_metrics_tell_hits_and_bytes(client):
    """A hit is a successful request without generated tokens, and is in no histogram of the model's times."""
    twice(client, OWN)
    text = client.get("/metrics").text
    assert "avito_ai_answer_cache_hits_total 1.0" in text
    assert "avito_ai_answer_cache_misses_total 1.0" in text
    assert "avito_ai_answer_cache_entries 1.0" in text
    assert "avito_ai_answer_cache_bytes 0.0" not in text
    assert 'avito_ai_e2e_request_latency_seconds_count{model="avibe"} 1.0' in text
    figures = client.get("/api/metrics").json["application"]
    assert (figures["successful_requests"], figures["total_tokens_generated"]) == (2, 5)


def test_it_is_off_unless_it_is_asked_for(models, machine, avibe):
    """Then no header speaks of it."""
    from app_production import create_app

    client = create_app(load_settings({"RATE_LIMIT_PER_MINUTE": "0"}, None), models, machine).test_client()
    assert [cache_of(one) for one in twice(client, CHAT)] == [None, None]
    assert len(avibe.submitted) == 2


def test_a_schema_is_part_of_the_request(app, client, avibe):
    """Another schema is another request, an equal one is found."""
    from tests.routes.chat.test_grammars import LETTERS

    avibe.tokens, avibe.text = LETTERS, "{}"

    def ask_for(schema):
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        return cache_of(ask(client, CHAT, response_format=form))

    schemas = ({"type": "object"}, {"type": ["object", "null"]}, {"type": "object"})
    assert [ask_for(schema) for schema in schemas] == ["miss", "miss", "hit"]
