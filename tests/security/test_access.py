"""Access rules, and what other servers allowed anonymous callers; docs/known-vulnerabilities.md says which."""

import hmac
import logging

import pytest

from app_production import create_app
from config import load_settings
from edge import caller
from edge.route_table import ROUTES, Need

KEY = "a-key-of-an-operator"
RESET = "/api/metrics/reset"
STRANGER = {"REMOTE_ADDR": "203.0.113.9"}
# What other servers let anybody do over HTTP: load, change and delete models, settings, prompts and files, run code.
OF_OTHER_SERVERS = [
    "/api/pull /api/push /api/create /api/copy /api/delete /api/blobs/sha256:0 /api/show",
    "/update_weights_from_tensor /update_weights_from_disk /load_lora_adapter /load_lora_adapter_from_tensors",
    "/v1/load_lora_adapter /flush_cache /abort_request /release_memory_occupation /set_internal_state",
    "/config/update /prompts/test /key/generate /config/pass_through_endpoint /models/apply /models/delete/x",
    "/slots/0 /props /lora-adapters /reset_prefix_cache /sleep /collective_rpc /inference/v1/generate /tokenize",
    "/v1/audio/transcriptions /v1/files /models /workflows /pickle /cache/audio/x.html /console /invocations",
]


@pytest.fixture
def guarded(environ, models, machine):
    """A client of a service with a key."""
    return create_app(load_settings(environ | {"ADMIN_KEY": KEY}, None), models, machine).test_client()


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_nothing_can_be_loaded_changed_or_run(client, method):
    """There is no such route for any caller: what a service serves is set before it starts."""
    paths = " ".join(OF_OTHER_SERVERS).split()
    answers = {path: client.open(path, method=method, json={"name": "x"}).status_code for path in paths}
    assert {path: status for path, status in answers.items() if status not in (404, 405)} == {}


def test_every_route_that_changes_something_needs_the_operator():
    """Beside generation and the visitor's own language and session, each is guarded."""
    changing = {name for name, row in ROUTES.items() if name.startswith("POST") and row.budget is None}
    own = {"POST /language", "POST /status/sign-in", "POST /status/sign-out", "POST /sign-in", "POST /sign-out"}
    needs = {name: ROUTES[name].need for name in changing - own}
    assert needs.pop(f"POST {RESET}") is Need.LOCAL_OR_ADMIN
    assert set(needs.values()) == {Need.OPERATOR}
    assert all(name.startswith("POST /status/") and ROUTES[name].form_token for name in needs)


@pytest.mark.parametrize(
    "host", ["rebind.example", "rebind.example:8085", "localhost.rebind.example", "127.0.0.1.rebind.example", "0.0.0.0"]
)
def test_a_name_that_is_rebound_is_not_this_machine(client, host):
    """A page whose host name resolves to loopback is still a foreign origin."""
    assert client.post(RESET, headers={"Host": host}).status_code == 403
    assert client.get("/status/figures", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "sent",
    [
        *(
            {"Origin": origin}
            for origin in ("https://evil.example", "null", "http://localhost.evil.example", "file://")
        ),
        *({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode} for mode in ("no-cors", "navigate")),
    ],
)
def test_a_page_elsewhere_cannot_use_what_is_local(client, sent):
    """Whatever the browser's User-Agent, and whether or not it names the page's origin."""
    for agent in ("Mozilla/5.0", "curl/8", ""):
        response = client.post(RESET, headers={**sent, "User-Agent": agent})
        assert response.status_code == 403


@pytest.mark.parametrize("cookie", ["", "session=x", "avito_ai_operator=x; other=y"])
def test_an_origin_is_checked_with_a_cookie_too(environ, models, machine, cookie):
    """A page that is not listed gets no permission, and credentials are never allowed."""
    settings = load_settings(environ | {"ALLOWED_ORIGINS": "https://good.example"}, None)
    client = create_app(settings, models, machine).test_client()
    for origin, allowed in (("https://evil.example", None), ("https://good.example", "https://good.example")):
        headers = {"Origin": origin, "Cookie": cookie, "Access-Control-Request-Method": "POST"}
        headers["Access-Control-Request-Private-Network"] = "true"
        for method in ("OPTIONS", "GET"):
            response = client.open("/api/health", method=method, headers=headers)
            assert response.headers.get("Access-Control-Allow-Origin") == allowed
            assert "Access-Control-Allow-Credentials" not in response.headers
            assert response.headers.get("Access-Control-Allow-Private-Network") != "true"


@pytest.mark.parametrize("path", [RESET, "/api/metrics/./reset", "//api/metrics/reset", "/x/../api/metrics/reset"])
def test_neither_host_nor_path_bypasses_the_key(guarded, path):
    """Access is looked up by the matched route, not by the form of the address."""
    for host in ("localhost/v1", "localhost/api/health#", "x/api/health?", "localhost@x/static/", "[::1]/", "a b", ""):
        response = guarded.post(path, headers={"Host": host}, environ_base=STRANGER)
        assert response.status_code in (308, 400, 401, 404, 405)


WRONG = ["", "x", KEY[:-1], KEY + "x", KEY.upper(), "x' OR (SELECT pg_sleep(8)) IS NOT NULL --", "null", "Ж"]


@pytest.mark.parametrize("wrong", WRONG)
def test_every_wrong_key_is_the_same_wrong_key(guarded, wrong):
    """The response does not reveal how close it was, and no part of the key is a query."""
    headers = {"Authorization": f"Bearer {wrong}".encode().decode("latin-1"), "X-Request-ID": "one"}
    response = guarded.post(RESET, headers=headers, environ_base=STRANGER)
    other = guarded.post(RESET, headers=headers | {"Authorization": "Bearer another"}, environ_base=STRANGER)
    assert (response.status_code, response.data) == (401, other.data)


def test_keys_are_compared_in_constant_time(guarded, monkeypatch):
    """The header's and the form's, also for different lengths."""
    compared = []

    class Recording:
        @staticmethod
        def compare_digest(offered, key):
            compared.append(offered)
            return hmac.compare_digest(offered, key)

    monkeypatch.setattr(caller, "hmac", Recording)
    guarded.post(RESET, headers={"Authorization": "Bearer short"}, environ_base=STRANGER)
    guarded.post("/status/sign-in", data={"key": "longer than the key that is the right one"}, environ_base=STRANGER)
    assert b"short" in compared
    assert b"longer than the key that is the right one" in compared


@pytest.mark.parametrize("path", ["/a%0d%0aFAKE%20line", "/a%0aFAKE", "/a%1b[2J", "/a%e2%80%a8FAKE", "/" + "a" * 4000])
def test_a_line_of_the_log_is_one_line(client, caplog, path):
    """A path cannot start another line, contain escape codes, or fill the disk."""
    with caplog.at_level(logging.DEBUG):
        client.get(path)
    lines = [record.getMessage() for record in caplog.records]
    assert lines
    for line in lines:
        assert len(line) < 1000
        assert line.isprintable()


@pytest.mark.parametrize("query", ["__debugger__=yes&cmd=resource&f=debugger.js", "__debugger__=yes&cmd=pinauth&pin=1"])
def test_no_debugger_answers(client, avibe, query):
    """In development too, and after an unexpected error."""
    avibe.refusal = RuntimeError("unexpected")
    assert client.post("/api/v1/text/generate", json={"prompt": "Hello"}).status_code == 500
    for path in ("/", "/console", "/api/v1/text/generate"):
        assert "Werkzeug" not in client.get(f"{path}?{query}").text
    assert client.application.debug is False
