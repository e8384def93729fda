"""Who may use which route: every row of the table, with every kind of key and token, in every protocol's shape."""

import re
import time

import pytest

from app_production import create_app
from config import load_settings
from edge.authentication import TRIES_PER_MINUTE, credential
from edge.failure_shapes import FailureShape, shape_of
from edge.route_table import ROUTES, Need
from edge.services import services
from engine.types import Priority
from keys.registry import Actor, KeyRegistry
from keys.secret import new_key
from tests.fakes import scripted_models
from tests.good_requests import FEEDBACK, GOOD, TEXT, call, good_request, real_path
from tests.keys.issuer import SECRET, token

CHAT = "/v1/chat/completions"
BY = Actor("tests")
FOREIGN = {"REMOTE_ADDR": "10.1.2.3"}
ADMIN = "a-key-of-an-operator"
FOR_CLIENTS = sorted(name for name, row in ROUTES.items() if row.need is Need.CLIENT)
# Signing in and out has tests of its own (test_operator_session, tests/routes/test_sign_in).
SIGNING = {name for name, row in ROUTES.items() if row.form_token and row.need is Need.OPEN}
OPEN = sorted(name for name, row in ROUTES.items() if row.need in (Need.OPEN, Need.PROBE) and name not in SIGNING)
OF_OPERATORS = sorted(set(ROUTES) - set(FOR_CLIENTS) - set(OPEN) - SIGNING)


@pytest.fixture
def environ(environ, tmp_path):
    """Keys and tokens are asked for."""
    return environ | {
        "AUTH": "keys,jwt",
        "STATE_DIR": str(tmp_path),
        "JWT_SECRET_KEY": SECRET,
        "JWT_MODELS_CLAIM": "models",
        "ADMIN_KEY": ADMIN,
    }


@pytest.fixture
def registry(app):
    return services(app).key_registry


@pytest.fixture
def make(app, registry):
    """Return a function that makes a key, known at once, and returns its text."""

    def made(name="billing", **fields):
        _, text = registry.make(BY, name, **fields)
        services(app).key_store.refresh()
        return text

    return made


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


def refused(response, path, status):
    """Assert that a response is a refusal in the shape of its address."""
    shape = shape_of(path)
    assert response.status_code == status
    assert response.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    if shape is FailureShape.API:
        assert response.json["error"] == {401: "unauthorized", 403: "forbidden"}[status]
    elif shape is FailureShape.OPENAI:
        assert response.json["error"]["code"] == {401: "invalid_api_key", 403: "forbidden"}[status]
        assert response.json["error"]["type"] == {401: "authentication_error", 403: "permission_error"}[status]
    elif shape is FailureShape.ANTHROPIC:
        assert response.json["type"] == "error"
        assert response.json["error"]["type"] == {401: "authentication_error", 403: "permission_error"}[status]
    else:
        assert response.mimetype == "text/html"


@pytest.fixture
def bad_credentials(make, app, registry):
    """Return what does not let its sender in, by what is wrong with it."""
    make("gone"), make("off"), make("old")
    KeyRegistry(services(app).database, lambda: 0.0).change(BY, "gone", expires_at=int(time.time()) - 1)
    registry.disable(BY, "off")
    _, disabled = registry.rotate(BY, "off")
    _, expired = registry.rotate(BY, "gone")
    old = make("rotated")
    registry.rotate(BY, "rotated")
    deleted = make("deleted")
    registry.delete(BY, "deleted")
    services(app).key_store.refresh()
    return {
        "no key": {},
        "an empty one": bearer(""),
        "another scheme": {"Authorization": "Basic YTpi"},
        "a wrong key": bearer(new_key().text),
        "no key of ours": bearer("sk-anything"),
        "a disabled key": bearer(disabled),
        "a disabled one as x-api-key": {"x-api-key": disabled},
        "an expired key": bearer(expired),
        "the secret before a rotation": bearer(old),
        "a deleted key": bearer(deleted),
        "the operator's key": bearer(ADMIN),
        "an expired token": bearer(token(exp=int(time.time()) - 1)),
        "a foreign token": bearer(token(key="another-issuer" * 4)),
        "letters beyond ASCII": {"Authorization": "Bearer \u00e9\u00e9.\u00e9.\u00e9"},
    }


@pytest.mark.parametrize("name", FOR_CLIENTS)
def test_routes_for_clients_refuse_whoever_has_no_good_key(client, bad_credentials, name):
    """401 in the shape of the route, for the same machine as well; nothing reaches a model."""
    for number, (kind, headers) in enumerate(bad_credentials.items()):
        body = good_request(real_path(name)) if ROUTES[name].bodies else {}
        where = {"REMOTE_ADDR": f"10.0.0.{number}" if number % 2 else "127.0.0.1"}
        response = client.open(real_path(name), method=name.split()[0], headers=headers, environ_base=where, **body)
        refused(response, real_path(name), 401)
        assert "disabled" in response.text or "disabled" not in kind
        assert "expired" in response.text or "expired" not in kind


@pytest.mark.parametrize("name", FOR_CLIENTS)
def test_routes_for_clients_answer_a_good_key_or_token(client, make, name):
    """As a bearer's key or as x-api-key, from anywhere."""
    key = make()
    for headers in (bearer(key), {"x-api-key": key}, {"authorization": f"bearer  {key} "}, bearer(token())):
        assert call(client, name, headers=headers, environ_base=FOREIGN).status_code in (200, 303)


NAMING_A_MODEL = [name for name in FOR_CLIENTS if ROUTES[name].bodies or "<path:model_id>" in name]
NAMING_A_MODEL.remove(f"POST {FEEDBACK}")  # which names an answer


@pytest.mark.parametrize("name", NAMING_A_MODEL)
def test_a_key_for_another_model_is_foreign(app, client, make, name, avibe, avision):
    """403 on every route that names a model, in its shape, and no model gets the request."""
    model = ROUTES[name].model or "avibe"
    other = "avision" if model == "avibe" else "avibe"
    for headers in (bearer(make(models=[other])), bearer(token(models=other))):
        refused(call(client, name, headers=headers), real_path(name), 403)
    assert not avibe.submitted + avision.submitted + avibe.tokenized + avision.tokenized + avibe.detokenized
    assert call(client, name, headers=bearer(token(models=model))).status_code == 200


def test_a_key_sees_the_models_that_it_may_use(client, make):
    """In the list of /v1."""
    listed = client.get("/v1/models", headers=bearer(make(models=["avision"]))).json["data"]
    assert [entry["id"] for entry in listed] == ["avision"]


@pytest.mark.parametrize("name", OPEN)
def test_open_routes_ask_nobody(client, name):
    """Probes, the page, static files, the description; a wrong key does no harm there."""
    for headers in ({}, bearer("wrong")):
        assert call(client, name, headers=headers, environ_base=FOREIGN).status_code in (200, 303)


@pytest.mark.parametrize("name", OF_OPERATORS)
def test_a_clients_key_is_not_the_operators(client, make, name):
    """Nor does it let its holder into the operator's pages."""
    assert call(client, name, headers=bearer(make()), environ_base=FOREIGN).status_code == 401
    assert call(client, name, headers=bearer(ADMIN), environ_base=FOREIGN).status_code in (200, 303)


@pytest.mark.parametrize(("auth", "good", "bad"), [("keys", "key", "token"), ("jwt", "token", "key")])
def test_only_what_auth_names_counts(environ, models, machine, auth, good, bad):
    """Keys without tokens, and tokens without keys."""
    app = create_app(load_settings(environ | {"AUTH": auth}, None), models, machine)
    _, key = services(app).key_registry.make(BY, "billing")
    if auth == "keys":
        services(app).key_store.refresh()
    credentials = {"key": key, "token": token()}
    send = app.test_client().post
    assert send(TEXT, json={"prompt": "a"}, headers=bearer(credentials[good])).status_code == 200
    assert send(TEXT, json={"prompt": "a"}, headers=bearer(credentials[bad])).status_code == 401


def test_an_open_service_reads_no_key(environ, models, machine, tmp_path):
    """Whatever clients send, and it opens no database."""
    app = create_app(load_settings(environ | {"AUTH": "open"}, None), models, machine)
    for headers in ({}, bearer("sk-anything"), {"x-api-key": "anything"}):
        assert app.test_client().post(TEXT, json={"prompt": "a"}, headers=headers).status_code == 200
    assert not list(tmp_path.iterdir())
    assert models.get("avibe").submitted[0].client == "127.0.0.1"


def test_preflights_need_no_key(client):
    """A browser sends none with them."""
    response = client.options(CHAT, headers={"Origin": "https://a.example", "Access-Control-Request-Method": "POST"})
    assert response.status_code == 200


def test_a_bearers_key_counts_first():
    """Where both headers come; a scheme of a proxy in front does not hide the other."""
    assert credential("Bearer a", "b") == "a"
    assert credential("Basic a", "b") == credential("", " b ") == credential("Bearer ", "b") == "b"
    assert credential("", "") == credential("Basic a", "") == credential("Bearer", "") == ""


# --- told apart behind one address ---


def test_keys_behind_one_address_are_told_apart(app, client, make, avibe):
    """The engine shares between them; a stored response is its key's alone; metrics and lines name them."""
    one, two = make("one"), make("two")
    for text in (one, two):
        client.post(TEXT, json={"prompt": "a"}, headers=bearer(text))
    clients = [request.client for request in avibe.submitted]
    assert len(set(clients)) == 2
    assert all(re.fullmatch(r"key:[a-z0-9]{12}", client) for client in clients)
    stored = client.post("/v1/responses", json=GOOD["/v1/responses"]["json"] | {"store": True}, headers=bearer(one))
    address = f"/v1/responses/{stored.json['id']}"
    assert client.get(address, headers=bearer(one)).status_code == 200
    assert client.get(address, headers=bearer(two)).status_code == 404
    text = client.get("/metrics").text
    assert 'avito_ai_key_requests_total{key="one",status="200"} 3.0' in text
    assert 'avito_ai_key_requests_total{key="two",status="404"} 1.0' in text


def test_the_access_line_names_the_key(client, make, caplog):
    """Behind the address; without a key the line is as ever."""
    caplog.set_level("INFO", "avito_ai.access")
    client.get("/v1/models", headers=bearer(make("billing")))
    client.get("/v1/models")
    lines = [record.getMessage() for record in caplog.records if record.name == "avito_ai.access"]
    assert lines[0].endswith("127.0.0.1 billing")
    assert lines[1].endswith("401 " + lines[1].split(" 401 ")[1])
    assert lines[1].endswith("127.0.0.1")


@pytest.mark.parametrize(
    ("priority", "engine"), [("low", Priority.BATCH), ("normal", Priority.INTERACTIVE), ("high", Priority.HIGH)]
)
def test_a_keys_priority_is_its_requests(client, make, avibe, priority, engine):
    """As a batch does."""
    client.post(TEXT, json={"prompt": "a"}, headers=bearer(make(priority=priority)))
    assert avibe.only.priority is engine


class TestLimits:
    """Requests a minute and an hour, of each key."""

    @pytest.fixture
    def environ(self, environ):
        return environ | {"RATE_LIMIT_PER_MINUTE": "2", "RATE_LIMIT_PER_HOUR": "0"}

    def test_each_key_has_its_own(self, client, make):
        """Its own numbers where it has some, else those of the settings; the address does not matter."""
        usual, four, free = make("usual"), make("four", requests_per_minute=4), make("free", requests_per_minute=0)

        def answered(text):
            sent = [client.post(TEXT, json={"prompt": "a"}, headers=bearer(text)) for _ in range(6)]
            return [response.status_code for response in sent].count(200), sent[-1]

        assert answered(usual)[0] == 2
        count, last = answered(four)
        assert (count, last.headers["RateLimit-Limit"], last.headers["RateLimit-Policy"]) == (4, "4", "4;w=60")
        assert last.json["message"] == "Rate limit exceeded: 4 requests per minute"
        count, last = answered(free)
        assert (count, last.headers.get("RateLimit-Limit")) == (6, None)

    def test_an_hour_and_what_counts_several_times(self, client, make):
        """A batch costs one a prompt, by the key's own numbers."""
        text = make(requests_per_minute=0, requests_per_hour=3)
        batch = {"prompts": ["a", "b"]}
        assert client.post("/api/v1/text/batch", json=batch, headers=bearer(text)).status_code == 200
        second = client.post("/api/v1/text/batch", json=batch, headers=bearer(text))
        assert (second.status_code, second.json["error"]) == (429, "rate_limit_exceeded")
        assert client.post(TEXT, json={"prompt": "a"}, headers=bearer(text)).status_code == 200

    def test_a_token_may_carry_its_own(self, environ, models, machine):
        """In the claim that the settings name."""
        app = create_app(load_settings(environ | {"AUTH": "jwt", "JWT_LIMITS_CLAIM": "limits"}, None), models, machine)
        headers = bearer(token(limits={"requests_per_minute": 1}))
        sent = [app.test_client().post(TEXT, json={"prompt": "a"}, headers=headers).status_code for _ in range(2)]
        assert sent == [200, 429]


# --- wrong keys ---


def test_wrong_keys_are_refused_by_a_limit_and_right_ones_never(client, make):
    """Of an address: an office with one broken program goes on working. Missing, disabled keys are no guesses."""
    text = make()
    wrong = [client.get("/v1/models", headers=bearer(new_key().text)) for _ in range(TRIES_PER_MINUTE + 1)]
    assert [response.status_code for response in wrong] == [401] * TRIES_PER_MINUTE + [429]
    assert wrong[-1].json["error"]["message"] == "Too many wrong keys from this address."
    assert "details" not in wrong[-1].json["error"]  # no setting has this number
    assert wrong[-1].headers["Retry-After"]
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models", headers=bearer(text)).status_code == 200
    assert client.get("/v1/models", headers=bearer("x"), environ_base=FOREIGN).status_code == 401
    assert 'avito_ai_rate_limit_refusals_total{budget="client-key",window="minute"} 1.0' in client.get("/metrics").text


def test_refusals_are_counted_by_their_reason(client, make, registry, app):
    """And a refused caller is no failure of the service."""
    text = make()
    registry.disable(BY, "billing")
    services(app).key_store.refresh()
    for headers in ({}, bearer("x"), bearer(text), bearer(token(exp=1))):
        client.post(TEXT, json={"prompt": "a"}, headers=headers)
    shown = client.get("/metrics").text
    for reason in ("missing", "wrong", "disabled", "expired"):
        assert f'avito_ai_credential_refusals_total{{reason="{reason}"}} 1.0' in shown
    assert "avito_ai_client_keys 1.0" in shown
    assert client.get("/api/metrics").json["application"]["failed_requests"] == 0


def test_no_line_and_no_answer_holds_a_key(client, make, caplog):
    """Right or wrong."""
    caplog.set_level("DEBUG")
    good, bad = make(), new_key().text
    answers = [client.post(TEXT, json={"prompt": "a"}, headers=bearer(text)).text for text in (good, bad)]
    secrets = [text.rpartition("_")[2] for text in (good, bad)]
    assert not [secret for secret in secrets if secret in caplog.text + "".join(answers)]


def test_the_description_says_which_keys_a_route_takes(client):
    """In its security, for programs that read it."""
    described = client.get("/api/openapi.json").json
    assert described["paths"][CHAT]["post"]["security"] == [{"client": []}, {"clientKey": []}, {}]
    assert {"401", "403"} <= described["paths"][CHAT]["post"]["responses"].keys()


def test_a_session_stands_for_its_key(environ, machine, make, app, client):
    """The seam of the page: a signed-in key counts where no key is sent, and ends with it."""
    make()
    key = services(app).key_registry.find("billing")
    authenticator = services(app).authenticator
    authenticator._session = lambda request: request.cookies.get("avito_ai_signed_in")
    client.set_cookie("avito_ai_signed_in", key.id)
    assert client.post("/avibe", data={"prompt": "a"}).status_code == 200
    services(app).key_registry.disable(BY, key.id)
    services(app).key_store.refresh()
    assert client.post("/avibe", data={"prompt": "a"}).status_code == 401


def test_without_its_database_a_service_with_keys_does_not_start(tmp_path):
    """A typed error, before anything is loaded."""
    from engine.errors import StartError

    (tmp_path / "file").write_text("")
    settings = load_settings({"AUTH": "keys", "STATE_DIR": str(tmp_path / "file")}, None)
    with pytest.raises(StartError, match="DATABASE_URL"):
        create_app(settings, scripted_models())
