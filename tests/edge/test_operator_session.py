"""The operator's cookie: who gets one, how long it is valid, and what invalidates it."""

import hashlib
import hmac
import html
import re

import pytest
from flask import Flask, request
from itsdangerous import TimestampSigner

from app_production import create_app
from config import load_settings
from edge import caller, csrf, operator_session
from edge.key_tries import KeyTries
from edge.operator_session import SECONDS, EndedSessions
from edge.rate_limit import OverBudget, RateLimiter
from edge.route_table import ROUTES
from tests.fakes import Clock
from tests.good_requests import call
from tests.threads import together

KEY = "a-key-of-an-operator"
ELSEWHERE = {"REMOTE_ADDR": "203.0.113.7"}
PAGES = ("/status", "/status/figures", "/status/samples")


@pytest.fixture
def environ():
    return {"ADMIN_KEY": KEY, "TRUSTED_PROXIES": "0", "RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}


@pytest.fixture
def stranger(app):
    """A browser on another machine."""
    client = app.test_client()
    client.environ_base = {**client.environ_base, **ELSEWHERE}
    return client


def sign_in(client, key=KEY, page="", csrf_token=None, **extra):
    fields = {"key": key, "page": page} | ({} if csrf_token is None else {csrf.FIELD: csrf_token})
    return client.post("/status/sign-in", data=fields, **extra)


def sign_out(client):
    """Press the button, with the token of the page that has it."""
    page = client.get("/status").text
    return client.post("/status/sign-out", data=dict(re.findall(r'name="(csrf_token)" value="([^"]+)"', page)))


@pytest.fixture
def browser(stranger):
    """A browser that names the page which sends a form."""
    stranger.environ_base["HTTP_ORIGIN"] = "http://localhost"
    return stranger


def form_token(client):
    """Return the token in the form of the operator's page."""
    return re.search(rf'name="{csrf.FIELD}" value="([^"]+)"', client.get("/status").text)[1]


def test_a_stranger_is_asked_for_the_key(stranger):
    """All routes of the operator's page answer 401, and the page shows the sign-in form."""
    for path in PAGES:
        response = stranger.get(path)
        assert response.status_code == 401
        assert 'type="password"' in response.text


def test_the_key_opens_the_page_for_twelve_hours(stranger):
    """The cookie is HttpOnly, SameSite=Strict and limited to this page; the address never contains the key."""
    answer = sign_in(stranger)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/status")
    cookie = answer.headers["Set-Cookie"]
    for part in ("HttpOnly", "SameSite=Strict", "Path=/status", "Max-Age=43200"):
        assert part in cookie
    assert "Secure" not in cookie
    assert KEY not in cookie
    assert [stranger.get(path).status_code for path in PAGES] == [200, 200, 200]


RETURNED = [
    "/status/usage?span=year&account=key%3Aa",
    "/status/keys?q=%D1%88",
    "/status/keys/abcdefghij12",
    "/status/audit",
]


@pytest.mark.parametrize("page", RETURNED)
def test_signing_in_goes_on_to_the_requested_page(stranger, page):
    """Also after a wrong key."""
    for shown in (stranger.get(page), sign_in(stranger, "wrong", page=page)):
        found = html.unescape(re.search(r'name="page" value="([^"]*)">\s*<label for="key"', shown.text)[1])
        assert found == page
    assert sign_in(stranger, page=page).headers["Location"] == page


@pytest.mark.parametrize(
    "page",
    [
        "",
        "https://evil.example/status",
        "//evil.example/status",
        "/status//evil.example",
        "/status@evil.example",
        "/status/../avibe",
        "/status\\evil.example",
        "/\\evil.example",
        "/status/keys\n",
        "/status?a=\r\nSet-Cookie: a=b",
        "/status/figures",
        "/status/sign-out",
        "javascript:alert(1)",
        "/status?" + "a" * 3000,
    ],
)
def test_signing_in_leads_nowhere_else(stranger, page):
    """Neither to another site nor to what is no page, with a key that is right or wrong."""
    assert 'name="page" value="/status">' in sign_in(stranger, "wrong", page=page).text
    assert sign_in(stranger, page=page).headers["Location"] == "/status"


def test_a_form_that_was_sent_signed_out_is_not_gone_back_to(stranger):
    """What only acts has no page of its own, and the query of a request may be no text."""
    for answer in (
        stranger.post("/status/keys/abcdefghij12/disable"),
        stranger.get("/status/keys", environ_overrides={"QUERY_STRING": "q=\xff\xfe"}),
    ):
        assert (answer.status_code, 'name="page" value="/status">' in answer.text) == (401, True)


def test_the_cookie_opens_nothing_else(stranger):
    """A session does not allow a reset of the metrics."""
    sign_in(stranger)
    assert stranger.post("/api/metrics/reset").status_code == 401


def test_signing_out_takes_the_cookie_away(stranger):
    """The page shows the sign-in form again."""
    sign_in(stranger)
    assert sign_out(stranger).status_code == 303
    assert stranger.get("/status").status_code == 401


def test_a_token_of_one_session_is_none_of_the_next(browser):
    """It is bound to the session that the page was shown in."""
    sign_in(browser, csrf_token=form_token(browser))
    old = form_token(browser)
    assert browser.post("/status/sign-out", data={csrf.FIELD: old}).status_code == 303
    assert sign_in(browser, csrf_token=form_token(browser)).status_code == 303
    assert browser.post("/status/sign-out", data={csrf.FIELD: old}).status_code == 403
    assert browser.post("/status/sign-out", data={csrf.FIELD: form_token(browser)}).status_code == 303


def test_what_a_browser_sends_by_itself_needs_a_token(stranger):
    """The session's cookie alone, or one field about the page that sends the form."""
    assert sign_in(stranger, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 403
    assert sign_in(stranger).status_code == 303
    assert stranger.post("/status/sign-out", data={"x": "1"}).status_code == 403
    assert stranger.get("/status").status_code == 200


def test_without_the_cookie_of_forms_no_token_counts(browser):
    """Anybody could compute one without a secret."""
    made = hmac.new(b"", b"a-nonce\0\0", hashlib.sha256).hexdigest()
    assert sign_in(browser, csrf_token=f"a-nonce.{made}").status_code == 403


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cookie_of_forms_is_as_secure_as_its_connection(stranger, scheme):
    """And scripts cannot read it."""
    answer = stranger.get("/status", base_url=f"{scheme}://localhost")
    (cookie,) = [one for one in answer.headers.getlist("Set-Cookie") if one.startswith(f"{csrf.COOKIE}=")]
    assert ("; Secure" in cookie, "; HttpOnly" in cookie) == (scheme == "https", True)


def cookie_of(response):
    """Return the cookie that a response sets."""
    return response.headers["Set-Cookie"].partition(";")[0].partition("=")[2]


def test_a_copy_of_the_cookie_ends_with_the_session(stranger, app):
    """Whoever kept the cookie is signed out as well; another session goes on."""
    kept, other = cookie_of(sign_in(stranger)), app.test_client()
    sign_in(other, environ_base=ELSEWHERE)
    stranger.set_cookie(operator_session.COOKIE, kept, path="/status")
    sign_out(stranger)
    stranger.set_cookie(operator_session.COOKIE, kept, path="/status")
    assert [stranger.get(path).status_code for path in PAGES] == [401, 401, 401]
    assert other.get("/status", environ_base=ELSEWHERE).status_code == 200


@pytest.mark.parametrize("cookie", [None, "", "forged", "Im9wZXJhdG9yIg.aaaaaa.bbbbbb"])
def test_a_sign_out_without_a_session_keeps_nothing(stranger, app, cookie):
    """Only a valid cookie can end a session, so a stranger cannot fill the memory of ended ones."""
    if cookie is not None:
        stranger.set_cookie(operator_session.COOKIE, cookie, path="/status")
    assert sign_out(stranger).status_code == 303
    assert len(app.extensions["services"].ended_sessions) == 0


def test_ended_sessions_are_bounded():
    """Expired ones are forgotten; one that is dropped before takes along all that began no later."""
    clock = Clock(100_000.0)
    ended = EndedSessions(capacity=2, clock=clock)
    ended.end("old", clock.now)
    clock.advance(SECONDS + 1)
    ended.end("a", clock.now)
    assert len(ended) == 1
    clock.advance(10)
    ended.end("b", clock.now)
    ended.end("c", clock.now)
    assert len(ended) == 2
    assert ended.has("a", clock.now - 10)
    assert ended.has("another", clock.now - 10)
    assert ended.has("b", clock.now)
    assert not ended.has("another", clock.now)


@pytest.mark.parametrize("relation", ["cross-site", "same-site"])
@pytest.mark.parametrize("name", sorted(name for name, row in ROUTES.items() if row.own_page))
def test_a_foreign_page_changes_nothing(stranger, name, relation):
    """It can neither sign out, sign in nor choose the language; the refusal sets no cookie."""
    sign_in(stranger)
    for headers in ({"Sec-Fetch-Site": relation}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        response = call(stranger, name, headers=headers)
        assert response.status_code == 403
        assert "Set-Cookie" not in response.headers
    assert stranger.get("/status").status_code == 200


def test_every_route_of_a_page_that_sets_a_cookie_is_its_own(stranger):
    """No POST route outside the API sets a cookie for a foreign page."""
    for name in (name for name, row in ROUTES.items() if name.startswith("POST") and not row.own_page):
        response = call(stranger, name, headers={"Origin": "https://evil.example"})
        assert "Set-Cookie" not in response.headers


WRONG, RIGHT = {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {KEY}"}


@pytest.mark.parametrize("path", ["/api/metrics/reset", "/status", "/status/figures", "/status/samples"])
def test_wrong_keys_in_a_header_are_limited_too(stranger, path, app):
    """Five a minute and address, then 429 for a right one as well; other addresses are not affected."""
    method = "POST" if path.startswith("/api") else "GET"
    statuses = [stranger.open(path, method=method, headers=WRONG).status_code for _ in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    refused = stranger.open(path, method=method, headers=RIGHT)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.headers["RateLimit-Limit"] == "5"
    neighbour = app.test_client()
    elsewhere = {"REMOTE_ADDR": "203.0.113.8"}
    assert neighbour.open(path, method=method, headers=RIGHT, environ_base=elsewhere).status_code == 200


def test_header_and_form_share_their_tries(stranger):
    """Guessing in both ways is no faster than in one."""
    for _ in range(3):
        assert stranger.post("/api/metrics/reset", headers=WRONG).status_code == 401
    assert [sign_in(stranger, "wrong").status_code for _ in range(3)] == [401, 401, 429]


def test_a_right_key_costs_no_try(stranger):
    """A program of the operator may use its key as often as it likes, and may leave it out."""
    assert {stranger.post("/api/metrics/reset", headers=RIGHT).status_code for _ in range(30)} == {200}
    assert {stranger.post("/api/metrics/reset").status_code for _ in range(30)} == {401}


def test_a_session_is_not_affected_by_spent_tries(stranger):
    """Who is signed in stays so while somebody at the same address guesses."""
    sign_in(stranger)
    for _ in range(7):
        stranger.post("/api/metrics/reset", headers=WRONG)
    assert stranger.get("/status", headers=WRONG).status_code == 200


def test_guesses_at_the_same_time_are_all_counted():
    """Of many concurrent guesses five are compared."""
    tries, refused = KeyTries(RateLimiter(5, 0)), []

    def guess():
        try:
            assert not tries.fits("wrong", KEY, "203.0.113.7")
        except OverBudget as error:
            refused.append(error)

    together(*[guess] * 30)
    assert len(refused) == 25


@pytest.mark.parametrize("key", ["", "wrong", KEY + "x", "ключ"])
def test_a_wrong_key_gets_no_cookie(stranger, key):
    """The page says that the key is wrong."""
    answer = sign_in(stranger, key)
    assert answer.status_code == 401
    assert stranger.get_cookie(operator_session.COOKIE, path="/status") is None
    assert "The key is wrong." in answer.text


def test_tries_are_limited_for_each_address(stranger, app):
    """Five wrong keys per minute and address; after them a right one is refused as well."""
    assert [sign_in(stranger, "wrong").status_code for _ in range(6)] == [401] * 5 + [429]
    refused = sign_in(stranger)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert "Set-Cookie" not in refused.headers
    neighbour = app.test_client()
    assert sign_in(neighbour, environ_base={"REMOTE_ADDR": "203.0.113.8"}).status_code == 303


@pytest.mark.parametrize(("hours", "status"), [(11.9, 200), (12.1, 401)])
def test_a_cookie_grows_old(stranger, hours, status):
    """The signature expires after twelve hours."""

    class Earlier(TimestampSigner):
        def get_timestamp(self):
            return super().get_timestamp() - round(hours * 3600)

    cookie = operator_session.cookie_serializer(KEY, Earlier).dumps("a-session")
    stranger.set_cookie(operator_session.COOKIE, cookie, path="/status")
    assert stranger.get("/status").status_code == status


@pytest.mark.parametrize("cookie", ["", "operator", "Im9wZXJhdG9yIg.aaaaaa.bbbbbb", "\x7f"])
def test_a_forged_cookie_is_worthless(stranger, cookie):
    """A cookie with another signature is ignored."""
    stranger.set_cookie(operator_session.COOKIE, cookie, path="/status")
    assert stranger.get("/status").status_code == 401


def test_a_new_key_ends_every_session(stranger, models, machine):
    """Without ADMIN_KEY there are no sessions."""
    cookie = cookie_of(sign_in(stranger))
    for environ, status in (({"ADMIN_KEY": KEY[::-1]}, 401), ({}, 403), ({"ADMIN_KEY": KEY}, 200)):
        client = create_app(load_settings(environ, None), models, machine).test_client()
        client.set_cookie(operator_session.COOKIE, cookie, path="/status")
        assert client.get("/status", environ_base=ELSEWHERE).status_code == status


def test_without_a_key_there_is_nothing_to_sign_in_to(models, machine):
    """A sign-in leads back to the page, which is only available on the machine itself."""
    client = create_app(load_settings({}, None), models, machine).test_client()
    client.environ_base = {**client.environ_base, **ELSEWHERE}
    assert sign_in(client).headers["Location"] == "/status"
    assert client.get("/status").status_code == 403


def test_a_secure_connection_gets_a_secure_cookie(models, machine):
    """Over HTTPS to this server or to a trusted proxy; other headers are ignored."""
    environ = {"ADMIN_KEY": KEY, "TRUSTED_PROXIES": "1"}
    client = create_app(load_settings(environ, None), models, machine).test_client()
    behind = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http, https"}
    assert "Secure" in sign_in(client, headers=behind).headers["Set-Cookie"]
    assert "Secure" in sign_in(client, base_url="https://example.org").headers["Set-Cookie"]
    with Flask(__name__).test_request_context(headers=behind):
        assert not caller.came_over_https(request, 0)
