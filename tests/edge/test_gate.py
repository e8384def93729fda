"""The gate refuses what the hooks would refuse, with the same response, and lets everything else through."""

import itertools
import json
import math
import re
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from flask import Request

from edge.authentication import TRIES_PER_MINUTE
from edge.batch_capacity import RETRY_AFTER
from edge.gate import GATED, NAMING_BYTES, arrival, named
from edge.in_service import PATIENT
from edge.ready_made import IDS_AT_ONCE, TEMPLATES
from edge.request_head import read_head
from edge.services import services
from engine.errors import NotReady, Overloaded
from engine.types import Status
from keys.registry import Actor
from keys.secret import new_key
from telemetry.access_lines import SparseLines
from tests.fakes import Clock, image_bytes, multipart
from tests.keys.issuer import SECRET, token

TEXT, BATCH, IMAGE = "/api/v1/text/generate", "/api/v1/text/batch", "/api/v1/image/analyze"
CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
BODIES = {
    TEXT: {"prompt": "Hello"},
    BATCH: {"prompts": ["Hello"]},
    CHAT: {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}]},
    COMPLETIONS: {"model": "avibe", "prompt": "Hello"},
    MESSAGES: {"model": "avibe", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]},
}
# What only the server that sends a response can know.
ITS_OWN = {"server", "date", "connection", "x-response-time"}


@pytest.fixture
def environ():
    """Two requests a minute."""
    return {"RATE_LIMIT_PER_MINUTE": "2", "TRUSTED_PROXIES": "1", "LOG_LEVEL": "INFO"}


@pytest.fixture
def gate(app):
    return services(app).gate


def head_of(path, body, headers=None, method="POST"):
    """Return a request's head as bytes, with the fields that a JSON client sends."""
    fields = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": len(body)} | (headers or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def judge(gate, head, peer):
    """Return the decision on a head, read as on its arrival."""
    return gate.judge(head, peer, read_head(head))


def judged(gate, path, body=None, headers=None, peer="127.0.0.1"):
    """Return the gate's refusal, None for a request that it lets through to the hooks."""
    body = json.dumps(BODIES[path]).encode() if body is None else body
    decision = judge(gate, head_of(path, body, headers), peer)
    return decision.again(named(body)) if decision.refusal is None and decision.again is not None else decision.refusal


def parsed(response):
    """Return status, headers by lower name, and body of a response in bytes."""
    head, _, body = response.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert len(headers) == len(lines)
    assert int(headers["content-length"]) == len(body)
    return int(first.split()[1]), headers, json.loads(body)


def by_the_hooks(client, path, headers=None):
    """Return the same of the response that the hooks and the view give."""
    answer = client.post(path, json=BODIES[path], headers=headers)
    names = [name.lower() for name in answer.headers.keys()]
    assert len(names) == len(set(names))
    return answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.json


def figures(app):
    """Return the counters of requests, by their series, without those of time."""
    text = services(app).metrics.prometheus.text(named=True).decode()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if re.match(r"avito_ai_(http_requests|requests|rate_limit_refusals|http_request_duration_seconds_count)", line)
        and "_created" not in line
    }


def full(avibe, avision):
    avibe.capacity = avision.capacity = 0


def draining(avibe, avision):
    avibe.become(Status.DRAINING)
    avision.become(Status.DRAINING)


def nothing(avibe, avision):
    """Leave the models as they are."""


def timeless(body):
    """Return a body of JSON without the seconds to wait, which may pass while a busy machine answers."""
    if not isinstance(body, dict):
        return body
    return {name: timeless(value) for name, value in body.items() if name != "retry_after"}


PLAIN, OTHER_COPY = {}, {"X-Another-Copy": "yes", "X-Forwarded-For": "1.2.3.4"}
PAGE = {"Origin": "https://shop.example", "X-Message-Language": "ru"}


@pytest.mark.parametrize("origins", ["*", "https://shop.example", "https://shop.example,https://other.example"])
@pytest.mark.parametrize("headers", [PLAIN, OTHER_COPY, PAGE], ids=["plain", "other copy", "page"])
@pytest.mark.parametrize("path", [TEXT, CHAT, COMPLETIONS, MESSAGES])
@pytest.mark.parametrize(("become", "spent"), [(full, 0), (draining, 0), (full, 2), (nothing, 2)])
class TestTheSameResponse:
    """What the gate sends is what the hooks would have sent."""

    @pytest.fixture
    def environ(self, environ, origins):
        return environ | {"ALLOWED_ORIGINS": origins}

    def test_header_by_header(self, app, client, gate, avibe, avision, become, spent, path, headers):
        """Status, body and every header, the quota included; both count in the same series, once each."""
        outcomes, counted = [], []
        for key, send in (("a", by_the_hooks), ("b", None)):
            who = headers | {"X-Forwarded-For": f"10.0.0.{1 if key == 'a' else 2}", "X-Request-ID": "an-id"}
            for _ in range(spent):
                assert client.post(TEXT, json=BODIES[TEXT], headers=who).status_code == 200
            become(avibe, avision)
            before = figures(app)
            outcomes.append(send(client, path, who) if send else parsed(judged(gate, path, headers=who)))
            after = {name: value - before.get(name, 0) for name, value in figures(app).items()}
            counted.append({name: value for name, value in after.items() if value})
            avibe.become(Status.READY)
            avision.become(Status.READY)
            avibe.capacity = avision.capacity = 1000
        hooks, ours = outcomes
        assert (ours[0], timeless(ours[2])) == (hooks[0], timeless(hooks[2]))
        assert ours[0] in (429, 503)
        passing = ITS_OWN | {"retry-after", "ratelimit-reset"}
        assert ours[1].keys() - ITS_OWN == hooks[1].keys() - ITS_OWN
        assert {n: v for n, v in ours[1].items() if n not in passing} == {
            n: v for n, v in hooks[1].items() if n not in passing
        }
        assert ITS_OWN <= ours[1].keys()
        assert counted[0] == counted[1]


def test_a_field_that_comes_twice_is_read_as_by_the_hooks(app, gate, avibe):
    """Two ids are no id, and two languages no language."""
    avibe.capacity = 0
    twice = "".join(
        f"{name}: {value}\r\n" for name, value in {"X-Request-ID": "two", "X-Message-Language": "ru"}.items()
    )
    first = {"X-Request-ID": "one", "X-Message-Language": "ru"}
    body = json.dumps(BODIES[TEXT]).encode()
    head = head_of(TEXT, body, first).removesuffix(b"\r\n") + twice.encode() + b"\r\n"
    _, headers, shown = parsed(judge(gate, head, "1.1.1.1").refusal)
    joined = {"X-Request-ID": "one,two", "X-Message-Language": "ru,ru"}
    hooks = app.test_client().post(TEXT, json=BODIES[TEXT], headers=joined)
    assert re.fullmatch(r"[0-9a-f-]{36}", headers["x-request-id"])
    assert re.fullmatch(r"[0-9a-f-]{36}", hooks.headers["X-Request-ID"])
    assert shown["message"] == hooks.json["message"]


def test_the_access_line_is_written_once(client, gate, avibe, caplog):
    """One line with the request's id, route, status and client, as the hooks write it."""
    avibe.capacity = 0
    caplog.set_level("INFO", "avito_ai.access")
    judged(gate, TEXT, headers={"X-Forwarded-For": "9.9.9.9"})
    (ours,) = [record.getMessage() for record in caplog.records if record.name == "avito_ai.access"]
    caplog.clear()
    client.post(TEXT, json=BODIES[TEXT], headers={"X-Forwarded-For": "9.9.9.9"})
    (hooks,) = [record.getMessage() for record in caplog.records if record.name == "avito_ai.access"]
    assert re.sub(r"[\d.]+s", "", ours) == re.sub(r"[\d.]+s", "", hooks) == f"POST {TEXT} 503  9.9.9.9"


def test_a_flood_has_a_line_for_some_of_its_refusals(gate, avibe, caplog):
    """Those beyond are counted by their status in one line a second; every one counts in the metrics."""
    avibe.capacity, clock = 0, Clock()
    gate._ready_made._access_lines = SparseLines(3, clock)
    caplog.set_level("INFO", "avito_ai.access")

    def lines():
        found = [record.getMessage() for record in caplog.records if record.name == "avito_ai.access"]
        caplog.clear()
        return found

    assert all(judged(gate, TEXT, peer="1.1.1.1") for _ in range(8))
    gate.tell_unlogged()
    assert [line.split()[2] for line in lines()] == ["503", "503", "429"]
    clock.advance(1.0)
    gate.tell_unlogged()
    gate.tell_unlogged()
    assert lines() == ["Refused without a line each within a second, by status: 429: 5"]
    assert judged(gate, TEXT, peer="1.1.1.1")
    assert len(lines()) == 1


def test_what_is_kept_of_refusals_is_bounded_and_never_another_client_s(gate, avibe):
    """Whatever languages and ids clients make up, each is told its own."""
    avibe.capacity = 0
    for number in range(3 * TEMPLATES // 2):
        head = {"X-Message-Language": f"x{number}", "X-Request-ID": f"id-{number}"}
        _, headers, body = parsed(judged(gate, TEXT, headers=head, peer=f"1.1.{number >> 8}.{number & 255}"))
        assert (headers["x-request-id"], body["request_id"]) == (f"id-{number}", f"id-{number}")
    assert 0 < len(gate._ready_made._templates) <= TEMPLATES
    ids = {parsed(judged(gate, TEXT, peer="2.2.2.2"))[1]["x-request-id"] for _ in range(2 * IDS_AT_ONCE)}
    assert len(ids) == 2 * IDS_AT_ONCE


def test_a_refusal_is_charged_as_one_answer(gate, avibe, avision):
    """Beyond its limit the client is told 429; at an open model a request that passes is charged by the hooks."""
    full(avibe, avision)
    assert [parsed(judged(gate, TEXT))[0] for _ in range(4)] == [503, 503, 429, 429]
    assert [parsed(judged(gate, CHAT, peer="1.1.1.1"))[0] for _ in range(3)] == [503, 503, 429]


def test_a_model_that_is_not_ready_costs_nothing(gate, avibe, avision):
    """However often a client comes back, it is told so, and not that it came too often."""
    draining(avibe, avision)
    for path in (TEXT, CHAT, MESSAGES):
        refusals = [parsed(judged(gate, path)) for _ in range(4)]
        assert [(status, headers["ratelimit-remaining"]) for status, headers, _ in refusals] == [(503, "2")] * 4


def test_what_may_be_admitted_passes_uncharged(gate, client):
    """The gate only looks where it does not refuse."""
    for path in BODIES:
        assert [judged(gate, path) for _ in range(5)] == [None] * 5
    assert client.post(TEXT, json=BODIES[TEXT]).headers["RateLimit-Remaining"] == "1"


def test_a_request_of_v1_is_refused_by_the_model_that_it_names(gate, avibe):
    """Only that one's capacity counts, wherever in the body its name stands."""
    avibe.capacity = 0
    cases = (
        (b'{"model": "avibe", "messages": []}', 503),
        (b'{"messages": [], "model":"avibe"}', 503),
        (b'{"messages": [], "model":"avision"}', None),
        (b'{"messages": [{"content": "\\"model\\": \\"avibe\\""}], "model": "avision"}', None),
        (b'{"model": "avision", "model": "avibe"}', None),
        (b'{"model": "avibe", "model": "avision"}', None),
        (b'{"model": "another"}', None),
        (b'{"model": 5}', None),
        (b"{}", None),
        (b"\x00\xff", None),
    )
    for number, (body, status) in enumerate(cases):
        refusal = judged(gate, CHAT, body, peer=f"1.1.1.{number}")
        assert (refusal and parsed(refusal)[0]) == status, body


@pytest.mark.parametrize("seconds", [(3, 9), (9, 3)])
def test_a_client_is_told_to_come_when_the_first_model_has_room(gate, avibe, avision, seconds):
    """Where the body is too long to look for a name in it, so that any model may be meant."""
    for model, wait in zip((avibe, avision), seconds, strict=True):
        model.refusal = Overloaded("The service is busy.", wait)
    refusal = judge(gate, head_of(CHAT, b"", {"Content-Length": NAMING_BYTES + 1}), "1.1.1.1").refusal
    status, headers, _ = parsed(refusal)
    assert (status, headers["retry-after"]) == (503, "3")


@pytest.mark.parametrize("query", ["?beta=true", "?", "?a=1&b=-_."])
def test_a_plain_query_changes_nothing(gate, avibe, client, query):
    """Anthropic's clients send one; the refusal is that of the address without it."""
    avibe.capacity = 0
    body = json.dumps(BODIES[MESSAGES]).encode()
    head = {"X-Request-ID": "an-id"}
    status, headers, shown = parsed(judge(gate, head_of(MESSAGES + query, body, head), "1.1.1.1").again(named(body)))
    hooks = by_the_hooks(client, MESSAGES, head)
    assert (status, shown, headers["request-id"]) == (503, hooks[2], hooks[1]["request-id"])


def test_a_batch_is_never_refused_for_capacity(gate, avibe):
    """It waits for capacity; only a spent limit refuses it here."""
    avibe.capacity = 0
    assert [judged(gate, BATCH) for _ in range(3)] == [None] * 3


def test_a_slash_at_the_end_changes_nothing(gate, avibe):
    """The route is the same, and so is its refusal."""
    avibe.capacity = 0
    assert parsed(judge(gate, head_of(f"{TEXT}/", b"", {}), "1.1.1.1").refusal)[0] == 503


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES])
@pytest.mark.parametrize("headers", [{"Content-Length": 60_000_000}, {"Content-Encoding": "gzip", "Content-Length": 0}])
def test_a_body_too_large_to_look_into_is_refused_where_every_model_would(gate, avibe, avision, path, headers):
    """From its head; while one model has room, the body may be for that one, and is read."""
    avibe.capacity = 0
    assert judge(gate, head_of(path, b"", headers), "1.1.1.1").refusal is None
    avision.capacity = 0
    status, told, _ = parsed(judge(gate, head_of(path, b"", headers), "1.1.1.1").refusal)
    assert (status, "x-model" in told) == (503, False)
    assert int(told["retry-after"]) >= 1


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate"])
def test_a_compressed_body_is_refused_unread(gate, avibe, coding):
    """Its coding is one that would be read, so its length and its route are enough."""
    avibe.capacity = 0
    assert parsed(judge(gate, head_of(TEXT, b"", {"Content-Encoding": coding}), "1.1.1.1").refusal)[0] == 503


def test_an_image_is_refused_unread(gate, avision):
    """From the head of its upload."""
    avision.capacity = 0
    body = multipart([("image", (image_bytes(), "a.png")), ("prompt", "What?")])
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": 10_000_000}
    assert parsed(judge(gate, head_of(IMAGE, b"", headers), "1.1.1.1").refusal)[0] == 503
    assert body


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (TEXT, {"Content-Type": "text/plain"}),
        (TEXT, {"Content-Type": None}),
        (TEXT, {"Content-Encoding": "br"}),
        (TEXT, {"Content-Length": 2 * 1024 * 1024}),
        (TEXT, {"Content-Length": "x"}),
        (TEXT, {"Content-Length": "1, 1"}),
        (TEXT, {"Content-Length": "9" * 30}),
        (TEXT, {"Transfer-Encoding": "gzip, chunked", "Content-Length": None}),
        (TEXT, {"Transfer-Encoding": "chunked"}),
        (TEXT, {"Expect": "a miracle"}),
        (TEXT, {"Host": None}),
        (TEXT, {"Bad Name": "x"}),
        (TEXT, {"X": "a\x00b"}),
        (TEXT, {"X-Long": "x" * 9000}),
        (f"{TEXT}?a=%41", {}),
        (f"{TEXT}?a=b?", {}),
        (f"{TEXT}//", {}),
        ("/avibe", {"Content-Type": "application/x-www-form-urlencoded"}),
        ("/api/metrics/reset", {}),
        ("/language", {}),
        ("/", {}),
    ],
)
def test_what_is_not_certain_is_left_to_the_hooks(gate, avibe, avision, path, headers):
    """What they would refuse as 4xx never becomes 503, and pages are rendered."""
    full(avibe, avision)
    assert judge(gate, head_of(path, b"{}", headers), "1.1.1.1").refusal is None


@pytest.mark.parametrize("head", [b"", b"\r\n\r\n", b"POST /api/v1/text/generate\r\n\r\n", b"POST / HTTP/1.0\r\n\r\n"])
def test_what_is_no_http_is_left_to_the_parser(gate, head):
    """Whatever the bytes, there is a decision."""
    assert judge(gate, head, "").refusal is None


@pytest.mark.parametrize("line", [b"X: y", b" folded", b"NoColon", b"X\x01: y", b"Host: a", b"X: \r y"])
def test_odd_field_lines_pass(gate, avibe, line):
    """A field that the parser may refuse, or a second Host, is not the gate's to judge; a plain one is."""
    avibe.capacity = 0
    head = head_of(TEXT, b"{}").replace(b"Content-Type", line + b"\r\nContent-Type")
    assert (judge(gate, head, "1.1.1.1").refusal is not None) == (line == b"X: y")


def test_methods_that_generate_nothing_pass(gate, avibe):
    """GET, HEAD and OPTIONS of a generation route are the framework's."""
    avibe.capacity = 0
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "post"):
        assert judge(gate, head_of(TEXT, b"{}", method=method), "1.1.1.1").refusal is None


def test_the_client_is_the_one_of_the_hooks(gate):
    """Whose bytes count, whatever the request: the address that trusted proxies saw, IPv6 by its /64."""
    head = head_of("/", b"", {"X-Forwarded-For": "6.6.6.6, 2001:db8::1"})
    assert judge(gate, head, "127.0.0.1").client == "2001:db8::/64"


def test_refusals_keep_their_kind(gate, avibe):
    """The model's own refusal is told: its reason, and when to try again."""
    for refusal, code in ((Overloaded("Busy.", 17), "overloaded"), (NotReady("Not yet.", 17), "not_ready")):
        avibe.refusal = refusal
        status, headers, body = parsed(judged(gate, TEXT, headers={"X-Forwarded-For": code}, peer=f"1.1.1.{len(code)}"))
        assert (status, headers["retry-after"], body["error"], body["message"]) == (503, "17", code, refusal.message)


def test_a_connection_that_the_client_closes_is_told_so(gate, avibe):
    """`Connection: close` is honoured, alone and in a list."""
    avibe.capacity = 0
    options = (("close", False), ("Close", False), ("TE ,Close", False), ("keep-alive", True), ("closed, TE", True))
    for value, keeps in options:
        decision = judge(gate, head_of(TEXT, b"{}", {"Connection": value}), f"1.1.1.{len(value)}{keeps}")
        assert decision.keeps_alive is keeps
        assert parsed(decision.refusal)[1]["connection"] == ("keep-alive" if keeps else "close")


def test_the_gated_routes_are_those_that_generate_and_answer_in_json():
    """A new route of that kind is gated, or this test says so."""
    assert set(GATED) == {TEXT, BATCH, IMAGE, CHAT, COMPLETIONS, "/v1/responses", MESSAGES}


class TestSharedLimits:
    """Where limits are counted in Redis, the gate does not ask it."""

    @pytest.fixture
    def environ(self, environ):
        return environ | {"RATE_LIMIT_STORAGE": "redis://127.0.0.1:1/0"}

    def test_a_full_model_refuses_without_a_quota(self, gate, avibe):
        """Neither charged nor limited; the response has no figures of a limit."""
        avibe.capacity = 0
        status, headers, _ = parsed(judged(gate, TEXT))
        assert status == 503
        assert "ratelimit-limit" not in headers


class TestKeys:
    """Where AUTH asks for keys, the gate judges by them."""

    @pytest.fixture
    def environ(self, environ, tmp_path):
        return environ | {"AUTH": "keys,jwt", "STATE_DIR": str(tmp_path), "JWT_SECRET_KEY": SECRET}

    @pytest.fixture
    def keys(self, app):
        """The text of a good key, of one with limits of its own, of one for another model, and of what is none."""
        registry = services(app).key_registry
        fields = {"good": {}, "one": {"requests_per_minute": 1}, "off": {}, "avision": {"models": ["avision"]}}
        texts = {name: registry.make(Actor("tests"), name, **own)[1] for name, own in fields.items()}
        registry.disable(Actor("tests"), "off")
        services(app).key_store.refresh()
        return texts | {"token": token(), "expired": token(exp=1), "wrong": new_key().text, "none": "sk-1"}

    @pytest.mark.parametrize("path", [TEXT, CHAT, MESSAGES, "/v1/tokenize"])
    @pytest.mark.parametrize("name", ["off", "expired", "wrong", "none", ""])
    @pytest.mark.parametrize("field", ["authorization", "x-api-key"])
    def test_a_refused_key_is_refused_as_by_the_hooks(self, app, client, gate, keys, path, name, field, avibe):
        """Header by header, also where the model is full; each is counted once."""
        avibe.capacity = 0
        text = keys.get(name, "")
        who = {"X-Request-ID": "an-id", field: f"Bearer {text}" if field == "authorization" else text}
        before = figures(app)
        hooks = client.post(path, json=BODIES[TEXT], headers=who | {"X-Forwarded-For": "10.0.0.1"})
        between = figures(app)
        ours = parsed(judge(gate, head_of(path, b"{}", who | {"X-Forwarded-For": "10.0.0.2"}), "127.0.0.1").refusal)
        after = figures(app)
        assert (ours[0], ours[2]) == (hooks.status_code, hooks.json) == (401, hooks.json)
        assert {n: v for n, v in ours[1].items() if n not in ITS_OWN} == {
            n.lower(): v for n, v in hooks.headers.items() if n.lower() not in ITS_OWN
        }
        counted = [{n: b[n] - a.get(n, 0) for n in b} for a, b in ((before, between), (between, after))]
        assert {n: v for n, v in counted[0].items() if v} == {n: v for n, v in counted[1].items() if v} != {}

    def test_too_many_wrong_keys_are_refused_and_right_ones_are_not(self, gate, keys):
        """Those of one address, whichever wrong keys they are."""
        wrong = [parsed(judged(gate, TEXT, headers={"x-api-key": new_key().text})) for _ in range(TRIES_PER_MINUTE + 1)]
        assert [one[0] for one in wrong] == [401] * TRIES_PER_MINUTE + [429]
        assert judged(gate, TEXT, headers={"x-api-key": keys["good"]}) is None
        assert parsed(judged(gate, TEXT, headers={"x-api-key": "x"}, peer="1.1.1.1"))[0] == 401

    def test_limits_and_bodies_are_of_the_key(self, gate, keys, avibe, avision):
        """Whatever the address; each key by its own numbers."""
        full(avibe, avision)

        def statuses(name, times):
            sent = [judged(gate, TEXT, headers={"x-api-key": keys[name]}) for _ in range(times)]
            return [parsed(one)[0] for one in sent]

        assert statuses("one", 2) == [503, 429]
        assert statuses("good", 3) == [503, 503, 429]
        assert statuses("token", 3) == [503, 503, 429]
        clients = {judge(gate, head_of(CHAT, b"{}", {"x-api-key": keys[n]}), "1.1.1.1").client for n in ("one", "good")}
        assert len(clients) == 2
        assert all(client.startswith("key:") for client in clients)
        assert judge(gate, head_of("/v1/tokenize", b"{}", {"x-api-key": keys["token"]}), "1.1.1.1").client == "jwt:anna"

    def test_the_access_line_names_the_key(self, gate, keys, avibe, caplog):
        """As the hooks' does."""
        avibe.capacity = 0
        caplog.set_level("INFO", "avito_ai.access")
        judged(gate, TEXT, headers={"x-api-key": keys["good"], "X-Forwarded-For": "9.9.9.9"})
        (line,) = [record.getMessage() for record in caplog.records if record.name == "avito_ai.access"]
        assert line.endswith(" 9.9.9.9 good")

    def test_a_foreign_model_is_the_hooks_to_refuse(self, gate, keys, avibe, avision):
        """With 403, also where it is full."""
        full(avibe, avision)
        for path in (TEXT, CHAT):
            assert judged(gate, path, headers={"x-api-key": keys["avision"]}) is None

    def test_a_foreign_model_is_refused_with_403_behind_a_full_capacity_for_batches(self, app, client, gate, keys):
        """The key cannot have a batch at any time; to one that can, it is a 503."""
        with suppress(Overloaded):
            for number in itertools.count():
                services(app).batch_capacity.admit(f"client-{number}")
        asked = {name: {"x-api-key": keys[name]} for name in ("avision", "good")}
        assert judged(gate, BATCH, headers=asked["avision"]) is None
        assert by_the_hooks(client, BATCH, asked["avision"])[0] == 403
        assert parsed(judged(gate, BATCH, headers=asked["good"]))[0] == 503
        assert by_the_hooks(client, BATCH, asked["good"])[0] == 503

    def test_several_fields_are_joined_as_the_server_joins_them(self, gate, keys):
        """A second field does not make a wrong key a right one, nor the other way round."""
        fields = f"x-api-key: {keys['good']}\r\nx-api-key: {keys['good']}\r\nContent-Type".encode()
        head = head_of(TEXT, b"{}").replace(b"Content-Type", fields)
        assert parsed(judge(gate, head, "1.1.1.1").refusal)[0] == 401

    def test_a_browser_that_may_have_signed_in_is_left_to_the_hooks(self, gate, keys):
        """Its cookie is no key; a wrong key beside it is refused."""
        assert judged(gate, TEXT, headers={"Cookie": "a=b"}) is None
        assert parsed(judged(gate, TEXT, headers={"Cookie": "a=b", "x-api-key": keys["wrong"]}))[0] == 401


def test_a_fault_of_the_gate_ends_nobody(gate, avibe, caplog):
    """It is logged, and the hooks decide."""
    avibe.would_refuse = lambda client: 1 / 0
    assert [judged(gate, path) for path in (TEXT, CHAT)] == [None, None]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


@pytest.mark.parametrize("path", [TEXT, BATCH, CHAT, MESSAGES])
def test_a_client_with_a_full_line_is_refused(gate, path):
    """Before its body is read, and charged as others that are refused; nobody else is."""
    gate.ask_of_lines(lambda client: client == "10.0.0.1")
    body = json.dumps(BODIES[path]).encode()
    decision = judge(gate, head_of(path, body, {"X-Forwarded-For": "10.0.0.1"}), "127.0.0.1")
    status, headers, answer = parsed(decision.refusal)
    assert status == 503
    assert headers["retry-after"] == str(math.ceil(PATIENT))
    assert "overloaded" in json.dumps(answer)
    assert judged(gate, path, headers={"X-Forwarded-For": "10.0.0.2"}) is None


def test_a_batch_beyond_the_capacity_is_refused(app, client, gate):
    """From its head, as the hooks refuse it, and charged; nothing else of that client is."""
    who = {"X-Forwarded-For": "10.0.0.1", "X-Request-ID": "an-id"}
    with suppress(Overloaded):
        while services(app).batch_capacity.admit("10.0.0.1"):
            pass
    body = json.dumps(BODIES[BATCH]).encode()
    ours = parsed(judge(gate, head_of(BATCH, body, who), "127.0.0.1").refusal)
    assert (ours[0], ours[2]["error"], ours[1]["retry-after"]) == (503, "overloaded", str(RETRY_AFTER))
    assert ours[1]["ratelimit-remaining"] == "1"
    hooks = by_the_hooks(client, BATCH, who)
    assert (hooks[0], hooks[1].keys() - ITS_OWN, hooks[2]) == (ours[0], ours[1].keys() - ITS_OWN, ours[2])
    assert hooks[1]["ratelimit-remaining"] == "0"
    assert judged(gate, BATCH, headers=who | {"X-Forwarded-For": "10.0.0.2"}) is None


def test_a_refused_batch_is_counted_once(app, client, gate):
    """Whoever refuses it; of no model's figures, since its queue may be empty, nor where its limit is spent."""
    with suppress(Overloaded):
        while services(app).batch_capacity.admit("10.0.0.1"):
            pass
    before = {series: count for series, count in figures(app).items() if "requests_total{model=" in series}
    assert before
    who = {"X-Forwarded-For": "10.0.0.1"}
    refused = services(app).batch_capacity.figures
    assert parsed(judged(gate, BATCH, headers=who))[0] == 503
    assert refused()[2] == 1
    assert by_the_hooks(client, BATCH, who)[0] == 503
    assert refused()[2] == 2
    assert [parsed(judged(gate, BATCH, headers=who))[0], by_the_hooks(client, BATCH, who)[0]] == [429, 429]
    assert refused()[2] == 2
    assert {series: figures(app)[series] for series in before} == before


@pytest.mark.parametrize("status", [Status.DRAINING, Status.STALLED])
def test_a_full_capacity_for_batches_hides_no_other_refusal(app, client, gate, avibe, status):
    """A model that takes no requests at all: the client is told so, and charged nothing."""
    who = {"X-Forwarded-For": "10.0.0.1"}
    with suppress(Overloaded):
        while services(app).batch_capacity.admit("10.0.0.1"):
            pass
    avibe.become(status)
    assert judged(gate, BATCH, headers=who) is None
    code, headers, answer = by_the_hooks(client, BATCH, who)
    assert (code, answer["error"], headers["ratelimit-remaining"]) == (503, "not_ready", "2")


def test_a_request_has_arrived_when_its_connection_says_so():
    """Not when a thread begins with it; now, where the connection is not one of the service's own."""
    own = Request({"gunicorn.socket": SimpleNamespace(arrived=5.0)})
    assert arrival(own) == 5.0
    before = time.monotonic()
    assert before <= arrival(Request({})) <= time.monotonic()
