"""Signing in on the page with a key or a token, the tokens of its forms, and what ends a session."""

import re

import pytest

from app_production import create_app
from config import load_settings
from edge import client_session, csrf
from edge.route_table import ROUTES
from edge.services import services
from keys.registry import Actor, KeyRegistry
from routes.locale import LOCALES
from tests.fakes import image_bytes, multipart, scripted_models
from tests.keys.issuer import SECRET, token

BY = Actor("tests")
ELSEWHERE = {"REMOTE_ADDR": "203.0.113.7"}
ADMIN = "a-key-of-an-operator"


@pytest.fixture
def environ(environ, tmp_path):
    return environ | {"AUTH": "keys,jwt", "STATE_DIR": str(tmp_path), "JWT_SECRET_KEY": SECRET, "ADMIN_KEY": ADMIN}


@pytest.fixture
def registry(app):
    return services(app).key_registry


@pytest.fixture
def key(app, registry):
    """A key of the database that the service knows: its record and its text."""
    made = registry.make(BY, "shop")
    services(app).key_store.refresh()
    return made


@pytest.fixture
def visitor(app):
    """A browser on another machine: it names the page that sends a form."""
    client = app.test_client()
    client.environ_base = {**client.environ_base, **ELSEWHERE, "HTTP_ORIGIN": "http://localhost"}
    return client


def token_in(page):
    """Return the token of the first form of a page that has one."""
    found = re.search(rf'name="{csrf.FIELD}" value="([^"]+)"', page.text)
    return found and found[1]


def enter(client, text, page=None, **fields):
    """Sign in through the form of a page."""
    shown = page or client.get("/sign-in")
    return client.post("/sign-in", data={"key": text, csrf.FIELD: token_in(shown), **fields})


def ask(client, prompt="Hello", page=None):
    """Send the text form of the page."""
    return client.post("/avibe", data={"prompt": prompt, csrf.FIELD: token_in(page or client.get("/")) or ""})


def test_a_link_from_another_site_leaves_open_pages_as_they_are(visitor):
    """A browser sends what forms are bound to along with it, as it does the session, so that no new one is made."""
    (cookie,) = [one for one in visitor.get("/").headers.getlist("Set-Cookie") if one.startswith(csrf.COOKIE)]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Lax"))


def test_a_key_is_asked_for_once(visitor, key):
    """The page has the sign-in alone, then the forms; the cookie is HttpOnly, SameSite and holds the key's id only."""
    record, text = key
    page = visitor.get("/")
    assert 'type="password"' in page.text
    assert "<textarea" not in page.text.partition("<template")[0]
    answer = enter(visitor, text)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    (cookie,) = [one for one in answer.headers.getlist("Set-Cookie") if one.startswith(client_session.COOKIE)]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Lax", "Path=/", f"{record.id}."))
    assert text not in cookie
    assert text.rpartition("_")[2] not in cookie
    page = visitor.get("/")
    assert "Signed in as shop" in page.text
    assert "<textarea" in page.text
    assert ask(visitor, page=page).status_code == 200


def test_who_sends_a_key_with_each_request_cannot_sign_out(visitor, key):
    """There is no session to end, and no token of a form."""
    page = visitor.get("/", headers={"Authorization": f"Bearer {key[1]}"}).text
    assert "<textarea" in page.partition("<template")[0]
    assert 'id="sign-out"' not in page


def test_the_account_is_the_keys(visitor, key, app, avibe):
    """Limits and fairness are the key's, not the address's."""
    enter(visitor, key[1])
    ask(visitor)
    assert avibe.submitted[-1].client == f"key:{key[0].id}"


@pytest.mark.parametrize("language", ["en", "ru"])
def test_a_wrong_key_is_refused_on_the_page(visitor, key, language):
    """401 with the form; nothing is set."""
    visitor.environ_base["HTTP_ACCEPT_LANGUAGE"] = language
    answer = enter(visitor, "avito_nothing_of_the_kind")
    assert answer.status_code == 401
    assert LOCALES[language].texts["key_sign_in"]["heading"] in answer.text
    assert visitor.get_cookie(client_session.COOKIE) is None
    assert enter(visitor, "").status_code == 401


def test_guessing_is_limited(visitor, key):
    """An address that offers wrong keys is told to wait, and when."""
    answers = [enter(visitor, f"avito_{number}") for number in range(25)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) > 0


def test_a_form_without_its_token_does_nothing(visitor, key, avibe):
    """Neither signing in nor out nor asking; what was typed is on the page that says so, with a token that works."""
    assert visitor.post("/sign-in", data={"key": key[1]}).status_code == 403
    assert visitor.get_cookie(client_session.COOKIE) is None
    enter(visitor, key[1])
    refused = visitor.post("/avibe", data={"prompt": "Typed before"})
    assert refused.status_code == 403
    assert "Typed before</textarea>" in refused.text
    assert avibe.submitted == []
    assert ask(visitor, "Typed before", refused).status_code == 200
    assert visitor.post("/sign-out", data={"x": "1"}).status_code == 403
    assert visitor.get_cookie(client_session.COOKIE) is not None


@pytest.mark.parametrize("wrong", ["", "x", "x.y", "é.ü", "a" * 4000])
def test_a_token_that_was_made_up_is_none(visitor, key, wrong):
    """Whatever it is, and that of another browser, or of before the session."""
    before = visitor.get("/sign-in")
    enter(visitor, key[1], before)
    other = visitor.application.test_client()
    for offered in (wrong, token_in(before), token_in(other.get("/sign-in"))):
        assert visitor.post("/avibe", data={"prompt": "x", csrf.FIELD: offered}).status_code == 403


@pytest.mark.parametrize("name", sorted(name for name, row in ROUTES.items() if row.form_token))
def test_every_route_that_acts_wants_the_token_of_a_form(visitor, name):
    """A browser's own credentials are not enough, the operator's included."""
    path = re.sub(r"<\w+>", "aaaaaaaaaaaa", name.split()[1])
    operator = {"Authorization": f"Bearer {ADMIN}"}
    assert visitor.post(path, data={"key": ADMIN, "name": "x"}, headers=operator).status_code == 403


def test_scripts_send_the_token_in_a_header(visitor, key, avibe):
    """The page's scripts call the JSON interface with the session; without the token it is refused."""
    enter(visitor, key[1])
    body = {"prompt": "Hello"}
    assert visitor.post("/api/v1/text/generate", json=body).status_code == 403
    found = re.search(r'data-token="([^"]+)"', visitor.get("/").text)
    answer = visitor.post("/api/v1/text/generate", json=body, headers={csrf.HEADER: found[1]})
    assert answer.status_code == 200
    assert visitor.get("/v1/models").status_code == 200
    assert visitor.delete("/v1/responses/resp_x").status_code == 403


def test_a_program_needs_no_token(app, key):
    """It names its key in each request, which no page of another site could."""
    program = app.test_client()
    header = {"Authorization": f"Bearer {key[1]}", "Origin": "https://elsewhere.example"}
    assert program.post("/avibe", data={"prompt": "x"}, headers=header).status_code == 200
    assert program.post("/api/v1/text/generate", json={"prompt": "x"}, headers=header).status_code == 200


@pytest.mark.parametrize("act", ["disable", "rotate", "delete", "change"])
def test_what_ends_a_key_ends_its_sessions(visitor, app, registry, key, act):
    """Disabled, expired, removed or with another secret: the next request is signed out, wherever it comes from."""
    enter(visitor, key[1])
    assert "Signed in" in visitor.get("/").text
    fields = {"expires_at": 1} if act == "change" else {}
    earlier = KeyRegistry(services(app).database, lambda: 0.0)
    getattr(earlier, act)(BY, key[0].id, **fields)
    services(app).key_store.refresh()
    assert "Signed in" not in visitor.get("/").text
    assert ask(visitor).status_code == 401


def test_every_copy_of_the_service_knows_the_session(visitor, key, environ):
    """Another process with the same database and ADMIN_KEY takes the cookie; one with another ADMIN_KEY does not."""
    enter(visitor, key[1])
    cookie = visitor.get_cookie(client_session.COOKIE).value
    for admin_key, known in ((ADMIN, True), ("another-key-of-an-operator", False)):
        other = create_app(load_settings(environ | {"ADMIN_KEY": admin_key}, None), scripted_models()).test_client()
        other.set_cookie(client_session.COOKIE, cookie)
        assert ("Signed in as shop" in other.get("/").text) is known


@pytest.mark.parametrize(
    "change", [lambda cookie: cookie[:-9] + "A" * 9, lambda cookie: cookie[13:], lambda cookie: "x"]
)
def test_a_changed_cookie_is_none(visitor, key, change):
    """Nor is one without the id, or one that names another key."""
    enter(visitor, key[1])
    cookie = visitor.get_cookie(client_session.COOKIE).value
    visitor.set_cookie(client_session.COOKIE, change(cookie))
    assert "Signed in" not in visitor.get("/").text


def test_a_session_is_of_one_key(visitor, app, registry, key):
    """The signature of one key's session is none for another key."""
    other, _ = registry.make(BY, "other")
    services(app).key_store.refresh()
    enter(visitor, key[1])
    cookie = visitor.get_cookie(client_session.COOKIE).value
    visitor.set_cookie(client_session.COOKIE, other.id + cookie[12:])
    assert "Signed in" not in visitor.get("/").text


def test_what_was_typed_is_kept_through_the_sign_in(visitor, key):
    """A question sent signed out is on the sign-in page, and in its form after it; so is a picture."""
    refused = visitor.post("/avibe", data={"prompt": "Line 1\nLine <2>", "max_tokens": "9"})
    assert refused.status_code == 401
    assert "Line 1\nLine &lt;2&gt;" in refused.text
    fields = {"form": "text", "prompt": "Line 1\nLine <2>", "max_tokens": "9"}
    page = enter(visitor, key[1], refused, **fields)
    assert page.status_code == 200
    assert "Line 1\nLine &lt;2&gt;</textarea>" in page.text
    assert ask(visitor, "x", page).status_code == 200
    visitor.delete_cookie(client_session.COOKIE)
    refused = visitor.post("/avision", **multipart([("prompt", "What?"), ("image", (image_bytes(), "a.png"))]))
    assert refused.status_code == 401
    (packed,) = re.findall(r'name="kept_image" value="([^"]+)"', refused.text)
    page = enter(visitor, key[1], refused, form="image", prompt="What?", kept_image=packed)
    assert f'name="kept_image" value="{packed}"' in page.text


def test_a_model_that_a_key_may_not_use_is_said_where_it_was_asked(visitor, app, registry):
    """403 on the page, with what was typed and no advice that would not help."""
    _, text = registry.make(BY, "pictures", models=["avision"])
    services(app).key_store.refresh()
    enter(visitor, text)
    refused = ask(visitor, "Typed before")
    assert refused.status_code == 403
    assert "This key may not use the model avibe." in refused.text
    assert "Typed before</textarea>" in refused.text
    assert '<p data-failure="next"></p>' in refused.text


def test_a_token_of_the_issuer_signs_in_too(visitor):
    """The cookie is the token, and ends with it."""
    assert enter(visitor, token(sub="u-1", name="Ann")).status_code == 303
    assert "Signed in as Ann" in visitor.get("/").text
    assert ask(visitor).status_code == 200
    assert enter(visitor, token(sub="u-1", name="x" * 4000)).status_code in (400, 401)


def test_signing_out_deletes_the_cookie(visitor, key):
    """The page asks for the key again."""
    enter(visitor, key[1])
    left = visitor.post("/sign-out", data={csrf.FIELD: token_in(visitor.get("/"))})
    assert left.status_code == 303
    assert visitor.get_cookie(client_session.COOKIE) is None
    assert "Signed in" not in visitor.get("/").text


def test_without_keys_nothing_of_it_is_there(client, environ, machine):
    """An open service sets no cookie and shows no sign-in."""
    open_one = create_app(load_settings({}, None), scripted_models(), machine).test_client()
    page = open_one.get("/")
    assert "Set-Cookie" not in page.headers
    assert csrf.FIELD not in page.text
    assert open_one.get("/sign-in").status_code == 303
