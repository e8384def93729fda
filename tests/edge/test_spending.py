"""Budgets and limits of accounts on every route: refusals in each protocol's shape, and nothing held back for ever."""

import json
import re
import threading
from contextlib import suppress

import pytest

from app_production import create_app
from config import load_settings
from edge.services import services
from engine.errors import ModelError, NotReady, RequestAborted, RetryLater
from keys.account import of_address
from tests.edge.test_gate import BATCH, BODIES, CHAT, COMPLETIONS, ITS_OWN, MESSAGES, TEXT, by_the_hooks, judged, parsed
from tests.good_requests import GENERATIONS, good_request

HERE = of_address("127.0.0.1")
RESPONSES = "/v1/responses"
ALL = BODIES | {RESPONSES: {"model": "avibe", "input": "Hello"}}
SPENT = re.compile(r"Budget exceeded: 100 tokens per day\. It renews at \d{4}-\d\d-\d\dT00:00:00Z\.")


@pytest.fixture
def environ(environ):
    """A hundred tokens a day, and two requests at a time; tokens have prices."""
    return environ | {
        "DEFAULT_TOKENS_PER_DAY": "100",
        "DEFAULT_CONCURRENT_REQUESTS": "2",
        "PRICES": "1/2/0.5",
        "TRUSTED_PROXIES": "1",
    }


@pytest.fixture
def budgets(app):
    return services(app).spending.budgets


@pytest.fixture
def spend(budgets):
    """Count an answer of so many tokens."""

    def spend(tokens, account=HERE):
        with suppress(RetryLater):
            budgets.check(account)
        budgets.count(account.id, 1, tokens, 0)

    return spend


def in_flight(budgets):
    """Return the requests in flight and the tokens and money that are held back, of all accounts."""
    ledgers = budgets.totals._ledgers.values()
    found = [(one.running, one.held.tokens, one.unsized) for one in ledgers]
    assert found
    return [sum(figures) for figures in zip(*found, strict=True)]


@pytest.mark.parametrize("broken", ["routes.batch.Meter", "routes.api.EventStream"])
def test_a_batch_that_fails_before_its_first_line_holds_nothing_back(client, budgets, monkeypatch, broken):
    """It counts for no limit any longer: its account may go on."""
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(broken, lambda *args: 1 / 0)
            assert client.post(BATCH, json=BODIES[BATCH]).status_code == 500
    assert b"text" in client.post(BATCH, json=BODIES[BATCH], buffered=True).data
    assert in_flight(budgets) == [0, 0, 0]


def metric(app, name):
    text = services(app).metrics.prometheus.text(named=True).decode()
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


@pytest.mark.parametrize("path", ALL)
def test_a_spent_budget_is_refused_in_the_shape_of_its_protocol(client, spend, path):
    """Status, code, seconds and the time of the renewal; clients that retry by themselves are told not to."""
    spend(100)
    response = client.post(path, json=ALL[path])
    assert response.status_code == 429
    seconds = int(response.headers["Retry-After"])
    assert 0 < seconds <= 86_400
    assert response.headers["X-Should-Retry"] == "false"
    body = response.json
    if path == MESSAGES:
        assert (body["type"], body["error"]["type"]) == ("error", "rate_limit_error")
        message = body["error"]["message"]
        assert (body["error"]["retry_after"], body["error"]["details"]) == (seconds, {"limit": "tokens_per_day"})
    elif path.startswith("/v1"):
        assert body["error"]["code"] == "insufficient_quota"  # by which OpenAI's clients stop asking again
        assert body["error"]["type"] == "insufficient_quota"
        assert body["error"]["retry_after"] == seconds
        message = body["error"]["message"]
    else:
        assert (body["error"], body["retry_after"]) == ("budget_exceeded", seconds)
        assert body["details"] == {"limit": "tokens_per_day"}
        message = body["message"]
    assert SPENT.fullmatch(message)


def test_the_page_says_it_in_the_visitors_language(client, spend):
    """The form keeps what was typed, and the refusal is a page with the same status."""
    spend(100)
    response = client.post("/avibe", data={"prompt": "Hello"}, headers={"Accept-Language": "ru"})
    assert response.status_code == 429
    assert "Исчерпан бюджет токенов в день: 100." in response.text


def test_what_generates_nothing_is_not_refused(client, spend):
    """Counting tokens, lists of models, probes and pages cost nothing of a budget."""
    spend(100)
    assert client.post("/v1/tokenize", json={"model": "avibe", "prompt": "Hello"}).status_code == 200
    for path in ("/v1/models", "/api/health", "/api/health/ready", "/metrics", "/"):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", [TEXT, CHAT, COMPLETIONS, MESSAGES])
def test_the_gate_refuses_as_the_hooks_do(app, client, spend, path):
    """Header by header, and counted once each."""
    spend(100)
    who, name = {"X-Request-ID": "an-id"}, 'avito_ai_limit_refusals_total{limit="tokens_per_day"}'
    hooks = by_the_hooks(client, path, who)
    assert metric(app, name) == 1
    ours = parsed(judged(services(app).gate, path, headers=who))
    assert metric(app, name) == 2
    for answer in (hooks, ours):
        answer[1].pop("retry-after")
    for body in (hooks[2], ours[2]):
        body.pop("retry_after", None) or body["error"].pop("retry_after")
    assert (ours[0], ours[2]) == (hooks[0], hooks[2])
    assert {n: v for n, v in ours[1].items() if n not in ITS_OWN} == {
        n: v for n, v in hooks[1].items() if n not in ITS_OWN
    }


def test_accounts_do_not_share_a_budget(client, spend):
    """Another address goes on."""
    spend(100)
    assert client.post(TEXT, json=BODIES[TEXT], headers={"X-Forwarded-For": "10.0.0.1"}).status_code == 200


def test_a_refusal_costs_nothing_of_the_rate_limit(client, spend):
    """A 429 is never charged."""
    spend(100)
    assert "RateLimit-Remaining" not in client.post(TEXT, json=BODIES[TEXT]).headers


@pytest.mark.parametrize("path", GENERATIONS)
def test_an_answer_gives_back_what_it_did_not_use(client, budgets, path):
    """Nothing is held back once an answer has been sent, whatever the route."""
    assert client.post(path, **good_request(path)).status_code == 200
    assert in_flight(budgets) == [0, 0, 0]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES, RESPONSES])
def test_a_stream_gives_back_what_it_did_not_use(client, budgets, path):
    """Nothing is held back once a stream has ended."""
    response = client.post(path, json=ALL[path] | {"stream": True}, buffered=True)
    assert response.status_code == 200
    assert response.data
    assert in_flight(budgets) == [0, 0, 0]


@pytest.mark.parametrize("path", GENERATIONS)
def test_a_failure_gives_back_everything(client, avibe, avision, budgets, path):
    """An answer that fails, one that is not admitted, and a body that is refused hold nothing back."""
    for model in (avibe, avision):
        model.failure = ModelError("The model failed.")
    assert client.post(path, **good_request(path)).status_code in (200, 500)
    for model in (avibe, avision):
        model.failure, model.refusal = None, NotReady("The model is not ready.")
    assert client.post(path, **good_request(path)).status_code == 503
    for model in (avibe, avision):
        model.refusal = None
        model.capacity = 0
    assert path == BATCH or client.post(path, **good_request(path)).status_code == 503
    for model in (avibe, avision):
        model.capacity = 1000
    assert client.post(path, json={"nothing": 1}).status_code in (400, 415)
    assert in_flight(budgets) == [0, 0, 0]


def test_requests_in_flight_are_limited(app, client, avibe, budgets):
    """The third one at a time is refused with the seconds to wait, and admitted when one has ended."""
    avibe.hold = True
    asked = {"json": {"prompt": "Hello", "max_tokens": 5}}
    threads = [threading.Thread(target=app.test_client().post, args=(TEXT,), kwargs=asked) for _ in range(2)]
    for thread in threads:
        thread.start()
    avibe.wait_for(lambda model: len(model._open) == 2)
    response = client.post(TEXT, **asked)
    assert (response.status_code, response.json["error"]) == (429, "rate_limit_exceeded")
    assert response.json["message"] == "Rate limit exceeded: 2 concurrent requests"
    assert response.headers["Retry-After"] == "1"
    assert "X-Should-Retry" not in response.headers
    for request in avibe.submitted[:2]:
        avibe.finish(request.request_id)
    for thread in threads:
        thread.join(60)
    avibe.hold = False
    assert client.post(TEXT, **asked).status_code == 200
    assert in_flight(budgets) == [0, 0, 0]


def test_a_batch_is_one_request_whose_texts_are_held_to_the_budget(client, avibe, budgets):
    """Texts that the budget has no room for wait for its others, and are refused one by one once it is spent."""
    prompts = {"prompts": [{"prompt": "Hello", "max_tokens": 40}] * 6}
    lines = [json.loads(line) for line in client.post(BATCH, json=prompts, buffered=True).data.splitlines() if line]
    assert sorted(line["index"] for line in lines) == list(range(6))
    assert all(line.get("success") for line in lines)
    assert in_flight(budgets) == [0, 0, 0]
    avibe.output_tokens = 60
    lines = [json.loads(line) for line in client.post(BATCH, json=prompts, buffered=True).data.splitlines() if line]
    by_index = sorted(lines, key=lambda line: line["index"])
    assert [line.get("error") for line in by_index] == [None] + ["budget_exceeded"] * 5  # 72 + 67 of 100 tokens
    assert client.post(BATCH, json=prompts).status_code == 429


def test_what_an_answer_cost_is_in_its_headers_and_in_the_metrics(app, client, avibe):
    """To the last millionth: the prompt's tokens, those of the answer, and cached ones at their own price."""
    response = client.post(TEXT, json=BODIES[TEXT])
    assert response.headers["X-Cost"] == "0.000017"  # 7 prompt tokens at 1 and 5 at 2 millionths
    assert metric(app, 'avito_ai_cost_total{model="avibe"}') == 0.000017
    assert client.get("/api/metrics").json["application"]["total_cost"] == "0.000017"
    several = client.post(COMPLETIONS, json=BODIES[COMPLETIONS] | {"n": 3})
    assert several.headers["X-Cost"] == "0.000037"  # one prompt, three answers
    assert metric(app, 'avito_ai_cost_total{model="avibe"}') == 0.000054


def test_without_prices_nothing_speaks_of_cost(models, machine):
    """No header, and no figure that would look like a bill of nothing."""
    free = create_app(load_settings({"PRICES": "0/0"}, None), models, machine).test_client()
    assert "X-Cost" not in free.post(TEXT, json=BODIES[TEXT]).headers
    assert "total_cost" not in free.get("/api/metrics").json["application"]


def test_a_failure_costs_what_was_computed(app, client, avibe):
    """Tokens that were made before an answer failed are the caller's."""
    avibe.hold = True
    asked = {"json": BODIES[TEXT], "headers": {"X-Request-ID": "one"}}
    answers = []
    thread = threading.Thread(target=lambda: answers.append(app.test_client().post(TEXT, **asked)))
    thread.start()
    avibe.wait_for(lambda model: "one" in model._open)
    avibe.push("one", "Half", token_ids=(1, 2, 3))
    avibe.fail("one", ModelError("The model failed."))
    thread.join(60)
    assert (answers[0].status_code, answers[0].headers["X-Cost"]) == (500, "0.000013")


def test_a_client_that_leaves_pays_for_what_was_computed(app, client, avibe, budgets):
    """Until what an aborted answer used is counted, it is held back; its request is in flight no longer."""
    avibe.hold = True
    stream = client.post(CHAT, json=BODIES[CHAT] | {"stream": True, "max_tokens": 20}, headers={"X-Request-ID": "one"})
    avibe.push("one", "Half", token_ids=(1, 2, 3))
    avibe._aborted = lambda request_id: None  # an engine in the middle of its step
    stream.close()
    assert in_flight(budgets) == [0, 27, 0]
    services(app).usage.catch_up()
    assert in_flight(budgets) == [0, 27, 0]
    avibe.fail("one", RequestAborted("The request was stopped."))
    services(app).usage.catch_up()
    assert in_flight(budgets) == [0, 0, 0]
    assert budgets.standings(HERE)[0].used == 10
