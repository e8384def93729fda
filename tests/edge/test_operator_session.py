"""The operator's cookie: who gets one, how long it is valid, and what invalidates it."""

import pytest
from flask import Flask, request
from itsdangerous import TimestampSigner

from app_production import create_app
from config import load_settings
from edge import caller, operator_session

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


def sign_in(client, key=KEY, **extra):
    return client.post("/status/sign-in", data={"key": key}, **extra)


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


def test_the_cookie_opens_nothing_else(stranger):
    """A session does not allow a reset of the metrics."""
    sign_in(stranger)
    assert stranger.post("/api/metrics/reset").status_code == 401


def test_signing_out_takes_the_cookie_away(stranger):
    """The page shows the sign-in form again."""
    sign_in(stranger)
    assert stranger.post("/status/sign-out").status_code == 303
    assert stranger.get("/status").status_code == 401


@pytest.mark.parametrize("key", ["", "wrong", KEY + "x", "ключ"])
def test_a_wrong_key_gets_no_cookie(stranger, key):
    """The page says that the key is wrong."""
    answer = sign_in(stranger, key)
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert "The key is wrong." in answer.text


def test_tries_are_limited_for_each_address(stranger, app):
    """Five attempts per minute and address, successful or not."""
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

    cookie = operator_session.cookie_serializer(KEY, Earlier).dumps(operator_session.OPERATOR)
    stranger.set_cookie(operator_session.COOKIE, cookie, path="/status")
    assert stranger.get("/status").status_code == status


@pytest.mark.parametrize("cookie", ["", "operator", "Im9wZXJhdG9yIg.aaaaaa.bbbbbb", "\x7f"])
def test_a_forged_cookie_is_worthless(stranger, cookie):
    """A cookie with another signature is ignored."""
    stranger.set_cookie(operator_session.COOKIE, cookie, path="/status")
    assert stranger.get("/status").status_code == 401


def test_a_new_key_ends_every_session(stranger, models, machine):
    """Without ADMIN_KEY there are no sessions."""
    cookie = sign_in(stranger).headers["Set-Cookie"].partition(";")[0].partition("=")[2]
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
