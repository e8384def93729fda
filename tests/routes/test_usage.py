"""What requests use is recorded before they are answered, and told to those who may know."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import time

import pytest

from database import audit
from engine.errors import ModelError, Overloaded
from routes.csv_answer import csv_answer, csv_rows
from routes.services import services
from routes.usage import REPORTS_AT_ONCE, usage
from tests.fakes import image_bytes, multipart
from usage.record import UsageRecord

TEXT = "/api/v1/text/generate"
CHAT = {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def environ(environ, tmp_path):
    """A database of its own, and prices."""
    return {**environ, "STATE_DIR": str(tmp_path), "PRICES": "avibe=1/2/0.5", "CURRENCY": "EUR"}


def total(client, **query):
    """Return the sums of everybody."""
    return client.get("/api/admin/usage", query_string=query).json["total"]


def lines(client, **query):
    """Return the lines of a report."""
    return client.get("/api/admin/usage", query_string=query).json["lines"]


REQUESTS = {
    "text": (TEXT, {"json": {"prompt": "Hello"}}),
    "stream": (TEXT, {"json": {"prompt": "Hello", "stream": True}}),
    "page": ("/avibe", {"data": {"prompt": "Hello"}}),
    "chat": ("/v1/chat/completions", {"json": CHAT}),
    "chat stream": ("/v1/chat/completions", {"json": {**CHAT, "stream": True}}),
    "completion": ("/v1/completions", {"json": {"model": "avibe", "prompt": "Hello"}}),
    "response": ("/v1/responses", {"json": {"model": "avibe", "input": "Hello"}}),
    "response stream": ("/v1/responses", {"json": {"model": "avibe", "input": "Hello", "stream": True}}),
    "message": ("/v1/messages", {"json": {**CHAT, "max_tokens": 8}}),
    "message stream": ("/v1/messages", {"json": {**CHAT, "max_tokens": 8, "stream": True}}),
    "batch": ("/api/v1/text/batch", {"json": {"prompts": ["Hello"]}}),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_each_kind_of_request_is_recorded_once(client, kind):
    """Every protocol, streamed or not, counts one request with the tokens that its client was told."""
    path, options = REQUESTS[kind]
    answer = client.post(path, **options)
    assert answer.status_code == 200
    answer.get_data()
    assert total(client) == {
        "requests": 1,
        "failed": 0,
        "input_tokens": 7,
        "output_tokens": 5,
        "cached_tokens": 0,
        "images": 0,
        "seconds": 1.0,
        "cost": "0.000017",
    }


@pytest.mark.parametrize("kind", [kind for kind in REQUESTS if "stream" in kind or kind == "batch"])
def test_a_stream_is_recorded_before_its_last_event(client, kind):
    """Whoever has the end of an answer finds it counted."""
    path, options = REQUESTS[kind]
    recorder = services(client.application).usage
    events = iter(client.post(path, **options).response)
    counted = [(event, recorder.figures().recorded) for event in events if event.strip()]
    assert counted[-1][1] == 1


STREAMS = {
    "stream": (TEXT, {"prompt": "Hello"}, lambda end: end["metrics"]),
    "chat": (
        "/v1/chat/completions",
        {**CHAT, "n": 2, "stream_options": {"include_usage": True}},
        lambda end: end["usage"],
    ),
    "completion": (
        "/v1/completions",
        {"model": "avibe", "prompt": ["a", "b"], "stream_options": {"include_usage": True}},
        lambda end: end["usage"],
    ),
    "response": ("/v1/responses", {"model": "avibe", "input": "Hello"}, lambda end: end["response"]["usage"]),
    "message": ("/v1/messages", {**CHAT, "max_tokens": 8}, lambda end: end["usage"]),
    "batch": ("/api/v1/text/batch", {"prompts": ["Hello"]}, lambda line: line["metrics"]),
}


def end_of(client, kind):
    """Return the part of a stream's end that has the cost where there is one."""
    path, body, part = STREAMS[kind]
    sent = client.post(path, json=body if kind == "batch" else {**body, "stream": True}).text
    lines = [line.removeprefix("data: ") for line in sent.splitlines() if line.startswith(("data: {", "{"))]
    ends = [json.loads(line) for line in lines if '"message_stop"' not in line]
    return part(ends[-1])


@pytest.mark.parametrize("kind", STREAMS)
def test_the_end_of_a_stream_tells_its_cost(client, kind):
    """In every protocol it is what usage counts, in the operator's currency."""
    told = end_of(client, kind)["cost"]
    assert f"{told:.6f}" == total(client)["cost"]
    assert told > 0


class TestWithoutPrices:
    """Where nothing costs anything."""

    @pytest.fixture
    def environ(self, environ):
        """No prices."""
        return {name: value for name, value in environ.items() if name != "PRICES"}

    @pytest.mark.parametrize("kind", STREAMS)
    def test_no_stream_tells_a_cost(self, client, kind):
        """A client sees the fields that the protocol has."""
        assert "cost" not in end_of(client, kind)


def test_several_answers_count_their_prompt_once(client):
    """The figures are those of `usage` in the answer: n answers share a prompt, several prompts do not."""
    told = client.post("/v1/chat/completions", json={**CHAT, "n": 3}).json["usage"]
    assert (told["prompt_tokens"], told["completion_tokens"]) == (7, 15)
    counted = total(client)
    assert (counted["requests"], counted["input_tokens"], counted["output_tokens"]) == (1, 7, 15)
    client.post("/v1/completions", json={"model": "avibe", "prompt": ["a", "b"], "n": 2})
    counted = total(client)
    assert (counted["requests"], counted["input_tokens"], counted["output_tokens"]) == (2, 7 + 14, 15 + 20)


def test_texts_of_a_batch_are_requests(client):
    """Each line of a batch is recorded when it is sent."""
    client.post("/api/v1/text/batch", json={"prompts": ["a", "b", "c"]}).get_data()
    assert total(client)["requests"] == 3


def test_images_are_counted(client):
    """A picture counts with its request, under its model."""
    client.post("/avision", **multipart([("prompt", "What?"), ("image", (image_bytes(), "a.png"))]))
    assert [(line["model"], line["images"]) for line in lines(client, by="model")] == [("avision", 1)]


def test_what_no_model_has_taken_is_not_recorded(client, avibe):
    """Refusals use nothing."""
    client.post(TEXT, json={"prompt": ""})
    avibe.refusal = Overloaded("The service is busy.", 3)
    client.post(TEXT, json={"prompt": "Hello"})
    assert total(client)["requests"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_fails_is_recorded_as_failed(client, avibe, stream):
    """A model that fails on a request leaves its tokens counted, and the failure."""
    avibe.failure = ModelError("It failed.")
    client.post(TEXT, json={"prompt": "Hello", "stream": stream}).get_data()
    counted = total(client)
    assert (counted["requests"], counted["failed"]) == (1, 1)


def test_tokens_for_a_client_that_left_count(app, client, avibe):
    """Who leaves in the middle has used what was generated until then."""
    avibe.hold = True
    events = client.post("/v1/chat/completions", json={**CHAT, "stream": True}).response
    stream = iter(events)
    next(stream)
    avibe.push(avibe.only.request_id, "An", token_ids=(1, 2, 3))
    next(stream)
    events.close()
    until = time.monotonic() + 30
    while not (counted := total(client))["requests"] and time.monotonic() < until:
        pass
    assert (counted["requests"], counted["failed"], counted["input_tokens"], counted["output_tokens"]) == (1, 1, 7, 3)


NAMED = {
    "user": ("/v1/chat/completions", {**CHAT, "user": " ann "}, "ann"),
    "safety": ("/v1/chat/completions", {**CHAT, "user": "ann", "safety_identifier": "s-1"}, "s-1"),
    "completion": ("/v1/completions", {"model": "avibe", "prompt": "Hello", "user": "ann"}, "ann"),
    "response": ("/v1/responses", {"model": "avibe", "input": "Hello", "safety_identifier": "s-2"}, "s-2"),
    "message": ("/v1/messages", {**CHAT, "max_tokens": 8, "metadata": {"user_id": "u-7"}}, "u-7"),
    "long": ("/v1/chat/completions", {**CHAT, "user": "x" * 5000}, "x" * 128),
}


@pytest.mark.parametrize("kind", NAMED)
def test_users_are_counted_under_their_account(client, kind):
    """What a program names as its user is told apart, within bounds."""
    path, body, name = NAMED[kind]
    assert client.post(path, json=body).status_code == 200
    (line,) = lines(client, by="account,user")
    assert (line["user"], line["account"], line["requests"]) == (name, "127.0.0.1", 1)


@pytest.mark.parametrize("user", ["", "  ", None])
def test_a_blank_user_is_nobody(client, user):
    """A field that names nobody makes no row."""
    client.post("/v1/chat/completions", json={**CHAT, "user": user})
    assert lines(client, by="user") == []
    assert total(client)["requests"] == 1


def test_a_report_comes_by_page(client):
    """A page ends where the next one begins, and the sums are of all."""
    for model in ("avibe", "avision"):
        client.post("/v1/chat/completions", json={**CHAT, "model": model})
    first = client.get("/api/admin/usage?by=model&limit=1").json
    assert ([line["model"] for line in first["lines"]], first["next_offset"]) == (["avibe"], 1)
    second = client.get("/api/admin/usage?by=model&limit=1&offset=1").json
    assert ([line["model"] for line in second["lines"]], second["next_offset"]) == (["avision"], None)
    assert first["total"]["requests"] == second["total"]["requests"] == 2


def test_a_report_is_of_the_days_that_were_asked_for(client):
    """Both days are included; a month is a month."""
    client.post(TEXT, json={"prompt": "Hello"})
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert total(client, **{"from": today, "to": today})["requests"] == 1
    assert total(client, month=today[:7])["requests"] == 1
    assert (
        total(client, month="2020-12")["requests"]
        == total(client, **{"from": "2020-01-01", "to": "2020-12-31"})["requests"]
        == 0
    )
    assert [line["hour"][:10] for line in lines(client, by="hour")] == [today]


@pytest.mark.parametrize(
    "query",
    ["by=week", "by=user,model", "by=user,hour", "by=day,hour", "by=user&model=avibe", "from=today", "from=2026-02-31"]
    + [
        "month=2026-13",
        "month=9999-12",
        "to=9999-12-31",
        "from=9999-12-31&to=9999-12-31",
        "limit=0",
        "limit=100001",
        "limit=-1",
        "limit=1e9",
        "offset=-1",
        "from=2026-11-30&to=2026-11-01",
        "format=xml",
        "unknown=1",
    ],
)
def test_a_question_that_has_no_answer_is_refused(client, query):
    """Every mistake in a query is a plain 400."""
    assert client.get(f"/api/admin/usage?{query}").status_code == 400


@pytest.mark.parametrize("how", [{"query_string": {"format": "csv"}}, {"headers": {"Accept": "text/csv"}}])
def test_a_report_can_be_a_table(client, how):
    """CSV by `format` or by `Accept`, with the same figures."""
    client.post(TEXT, json={"prompt": "Hello"})
    answer = client.get("/api/admin/usage", **how)
    assert answer.mimetype == "text/csv"
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["requests"], row["output_tokens"], row["seconds"], row["cost"], row["currency"]) == (
        "1",
        "5",
        "1.000",
        "0.000017",
        "EUR",
    )


def test_the_operators_page_leads_to_the_table(client):
    """Of the time and the model that the page shows, by day, account and model."""
    client.post(TEXT, json={"prompt": "Hello"})
    page = client.get("/status/usage?span=month&model=avibe").text
    (link,) = re.findall(r'href="(/status/usage\.csv\?[^"]+)"', page)
    answer = client.get(html.unescape(link))
    assert answer.mimetype == "text/csv"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="usage.csv"'
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["model"], row["requests"]) == ("avibe", "1")
    assert {"day", "account"} <= row.keys()


class Budget:
    """The socket of a request with so much room for its bytes, as far as reports know it."""

    def __init__(self, room):
        self.room, self.taken = room, 0

    def grow_body(self, size):
        if self.taken + size > self.room:
            return False
        self.taken += size
        return True


def used_by_many(app):
    """Have usage of forty users of a key, and return an operator's client."""
    recorder = services(app).usage
    for number in range(40):
        recorder.record(UsageRecord("r", time.time(), "key:a", "avibe", "api", user=f"я{number:02d}", input_tokens=7))
    return app.test_client()


REPORTS = ("/api/admin/usage", "/status/usage.csv")


@pytest.mark.parametrize("path", REPORTS)
def test_a_long_report_is_the_same_in_pieces(app, monkeypatch, path):
    """To the byte, as JSON and as CSV."""
    client, query = used_by_many(app), {"by": "user,account"}
    whole = client.get(path, query_string=query)
    monkeypatch.setattr("usage.report.LINES_AT_ONCE", 3)
    pieces = client.get(path, query_string=query)
    assert (pieces.data, pieces.headers["Content-Length"]) == (whole.data, str(len(whole.data)))
    assert whole.text.count("я") == 40
    if whole.is_json:
        assert whole.text == f"{json.dumps(whole.json, ensure_ascii=False, separators=(',', ':'))}\n"


@pytest.mark.parametrize("path", REPORTS)
def test_what_a_report_takes_counts_in_the_budget_of_bodies(app, monkeypatch, path):
    """Each of its lines; without room for them it is refused with the seconds to wait, and its place is free again."""
    monkeypatch.setattr("usage.report.LINES_AT_ONCE", 3)
    client, query = used_by_many(app), {"by": "user"}
    budget = Budget(10**6)
    answer = client.get(path, query_string=query, environ_overrides={"gunicorn.socket": budget})
    assert 0 < len(answer.data) - budget.taken < 600
    for _ in range(REPORTS_AT_ONCE + 1):
        full = Budget(budget.taken - 1)
        refused = client.get(path, query_string=query, environ_overrides={"gunicorn.socket": full})
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        assert full.taken < budget.taken
    assert client.get(path, query_string=query).status_code == 200


@pytest.mark.parametrize("path", [*REPORTS, "/api/v1/usage"])
def test_few_reports_are_made_at_once(app, client, monkeypatch, path):
    """One more is refused if it would have to wait for long: it would take processor time from the models' streams."""
    monkeypatch.setattr("routes.usage.PLACE_SECONDS", 0.01)
    places = services(app).report_places
    for _ in range(REPORTS_AT_ONCE):
        assert places.acquire(blocking=False)
    refused = client.get(path)
    assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
    places.release()
    assert [client.get(path).status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "'=1", '"=1', "\uff1d1+1", "\r=1"])
def test_no_cell_of_a_table_is_a_formula(app, text):
    """What a client calls itself runs in no spreadsheet, and quotes cannot leave their cell."""
    with app.test_request_context():
        rows = list(
            csv.reader(
                io.StringIO(
                    csv_answer("a.csv", ["name", "n"], [csv_rows([[text, -1]])]).get_data(as_text=True), newline=""
                )
            )
        )
    assert rows == [["name", "n"], [f"'{text}", "-1"]]


def test_a_table_has_no_nul(app):
    """A program that leaves it out would find a formula behind it."""
    with app.test_request_context():
        assert (
            csv_answer("a.csv", ["name"], [csv_rows([["\0=1+1"]])]).get_data(as_text=True) == "name\r\n\ufffd=1+1\r\n"
        )


def test_a_client_sees_itself_alone(client, app):
    """`/api/v1/usage` tells an address what it has used, and nothing of others."""
    client.post(TEXT, json={"prompt": "Hello"})
    client.post(TEXT, json={"prompt": "Hello"}, environ_base={"REMOTE_ADDR": "192.0.2.9"})
    mine = client.get("/api/v1/usage").json
    assert (mine["account"], mine["total"]["requests"], mine["budgets"]) == ("127.0.0.1", 1, [])
    assert client.get("/api/v1/usage?account=192.0.2.9").status_code == 400
    assert client.get("/api/v1/usage?by=account").status_code == 400
    assert client.get("/api/v1/usage?by=user").status_code == 400


class TestBudgets:
    """Of accounts with limits."""

    @pytest.fixture
    def environ(self, environ):
        """A default budget for every account."""
        return {**environ, "DEFAULT_TOKENS_PER_DAY": "100"}

    def test_what_is_left_of_budgets_is_told(self, client):
        """A client sees what it may still use, and when more comes."""
        client.post(TEXT, json={"prompt": "Hello"})
        (left,) = client.get("/api/v1/usage").json["budgets"]
        assert (left["limit"], left["amount"], left["used"], left["remaining"]) == ("tokens_per_day", 100, 12, 88)
        assert left["renews_at"].endswith("T00:00:00Z")


def test_the_audit_trail_is_told_by_page(app, client):
    """Acts come newest first, as JSON and as CSV."""
    with app.app_context():
        engine = services().database.engine()
    for number in range(3):
        audit.record(engine, "admin", "192.0.2.1", "key.create", f"key:{number}", {"name": "=1"})
    first = client.get("/api/admin/audit?limit=2").json
    assert [act["target"] for act in first["acts"]] == ["key:2", "key:1"]
    assert [act["target"] for act in client.get(f"/api/admin/audit?before={first['before']}").json["acts"]] == ["key:0"]
    rows = list(csv.DictReader(io.StringIO(client.get("/api/admin/audit?format=csv").text)))
    assert json.loads(rows[0]["details"]) == {"name": "=1"}


class TestRetention:
    """What is old is forgotten."""

    @pytest.fixture
    def environ(self, environ):
        """Days by each kind of what is kept."""
        return {**environ, "AUDIT_DAYS": "5", "USAGE_HOUR_DAYS": "9", "USAGE_DAYS": "32"}

    def test_the_settings_say_how_long_things_are_kept(self, app, client):
        """Of the audit trail, and of usage by hour and by day."""
        with app.app_context():
            engine, recorder = services().database.engine(), services().usage
        for days in (0, 4, 6, 8, 10, 31, 33):
            at = time.time() - days * 86_400
            audit.record(engine, f"{days}", "", "key.create", clock=lambda at=at: at)
            recorder.record(UsageRecord(f"{days}", at, f"key:{days}", "avibe", "api"))
        recorder.begin()
        recorder.end()
        since = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 60 * 86_400))
        for by, kept in (("account", {"0", "4", "6", "8", "10", "31"}), ("account,hour", {"0", "4", "6", "8"})):
            report = client.get("/api/admin/usage", query_string={"by": by, "from": since}).json
            assert {line["account"] for line in report["lines"]} == {f"key:{days}" for days in kept}
        assert [act.actor for act in audit.acts(engine)] == ["4", "0"]


def test_figures_of_keeping_are_told(client):
    """Both kinds of metrics say how many requests are recorded."""
    client.post(TEXT, json={"prompt": "Hello"})
    assert client.get("/api/metrics").json["usage"]["recorded"] == 1
    text = client.get("/metrics").text
    assert "avito_ai_usage_records_total 1.0" in text
    assert 'avito_ai_usage_failures_total{where="journal"} 0.0' in text


class TestWithoutDatabase:
    """While the database is away."""

    @pytest.fixture
    def environ(self, environ):
        """A database that nobody serves."""
        return {**environ, "DATABASE_URL": "postgresql://user:secret@127.0.0.1:1/none"}  # pragma: allowlist secret

    @pytest.mark.parametrize("path", ["/api/admin/usage", "/api/v1/usage", "/api/admin/audit"])
    def test_requests_are_answered_and_reports_refused(self, client, path):
        """Generation goes on; a report is a 503 that says when to ask again, without the URL."""
        assert client.post(TEXT, json={"prompt": "Hello"}).status_code == 200
        refused = client.get(path)
        assert (refused.status_code, refused.json["error"]) == (503, "not_ready")
        assert "secret" not in refused.text
        assert refused.headers["Retry-After"]


def test_the_routes_are_those_of_the_table(app):
    """The blueprint is registered whole."""
    assert {rule.endpoint for rule in app.url_map.iter_rules() if rule.endpoint.startswith(f"{usage.name}.")} == {
        "usage.everybody",
        "usage.everybody_in_csv",
        "usage.own",
        "usage.audit_trail",
    }


@pytest.mark.parametrize(("by", "days", "complete"), [("hour", 20, True), ("hour", 40, False), ("day", 40, True)])
def test_a_report_beyond_what_is_kept_is_not_complete(client, by, days, complete):
    """Hours are forgotten before days are."""
    begins = time.strftime("%Y-%m-%d", time.gmtime(time.time() - days * 86_400))
    assert client.get("/api/admin/usage", query_string={"from": begins, "by": by}).json["complete"] is complete
