"""The operator's pages of keys and of the audit trail."""

import html
import re
import time

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import OperationalError

from database.tables import API_KEYS
from edge import csrf
from edge.services import services
from keys.record import LIMITS
from keys.registry import Actor, ChangedMeanwhile, KeyRegistry
from keys.secret import digest
from routes.key_form import fields_of, shown_limit
from routes.locale import LOCALES
from tests.routes.test_sign_in import token_in

ADMIN = "a-key-of-an-operator"
FULL = {
    "name": "billing",
    "models": "avibe, avision",
    "priority": "low",
    "expires_at": "2030-01-02T03:04",
    "notes": "Ask Anna <1>",
    "requests_per_minute": "60",
    "requests_per_hour": "0",
    "concurrent_requests": "4",
    "tokens_per_minute": "1000",
    "tokens_per_day": "20000",
    "tokens_per_month": "300000",
    "money_per_day": "1.5",
    "money_per_month": "20,25",
}


@pytest.fixture
def environ(environ, tmp_path):
    """A database of its own."""
    return environ | {"AUTH": "keys", "STATE_DIR": str(tmp_path), "ADMIN_KEY": ADMIN}


@pytest.fixture
def registry(app):
    return services(app).key_registry


@pytest.fixture
def operator(app):
    """A browser in which the operator has signed in, far away."""
    client = app.test_client()
    client.environ_base = {**client.environ_base, "REMOTE_ADDR": "203.0.113.7", "HTTP_ORIGIN": "http://localhost"}
    page = client.get("/status")
    client.post("/status/sign-in", data={"key": ADMIN, csrf.FIELD: token_in(page)})
    return client


def act(client, address, shown="/status/keys/new", **fields):
    """Send a form of the page that shows it."""
    return client.post(address, data={csrf.FIELD: token_in(client.get(shown)), **fields})


def fields_in(page):
    """Return what a browser sends of the form that changes a key, as it is shown."""
    form = page[page.rindex("<form", 0, page.index('name="shown"')) : page.index("</textarea>")]
    inputs = re.findall(r'<input[^>]* name="(\w+)"[^>]* value="([^"]*)"', form)
    (priority,) = re.findall(r'<option value="(\w+)" selected>', form)
    (notes,) = re.findall(r'<textarea id="notes"[^>]*>(.*)', form, re.DOTALL)
    fields = dict(inputs) | {"priority": priority, "notes": re.sub("\r?\n", "\r\n", notes)}
    return {name: html.unescape(value) for name, value in fields.items()}


def make(client, **fields):
    """Make a key through the form; return its text."""
    answer = act(client, "/status/keys", **fields)
    assert answer.status_code == 200, answer.text
    return re.search(r'id="secret"[^>]*>([^<]+)</textarea>', answer.text)[1]


def test_a_key_is_made_and_its_secret_shown_once(operator, registry, app):
    """It works at once, is on no other page, and the answer is kept by no cache and at no address of its own."""
    answer = act(operator, "/status/keys", **FULL)
    text = re.search(r'id="secret"[^>]*>([^<]+)</textarea>', answer.text)[1]
    assert answer.headers["Cache-Control"] == "no-store"
    key = registry.find("billing")
    assert key.hash == digest(text)
    services(app).key_store.refresh()
    assert operator.get("/v1/models", headers={"Authorization": f"Bearer {text}"}).status_code == 200
    secret = text.rpartition("_")[2]
    for page in ("/status/keys", f"/status/keys/{key.id}", "/status/audit", "/status"):
        assert secret not in operator.get(page).text


def test_every_field_of_a_key_can_be_set_and_is_shown_again(operator, registry):
    """Limits, models, priority, expiry and notes; money in the operator's currency."""
    make(operator, **FULL)
    key = registry.find("billing")
    assert key.account.limits.money_per_day == 1_500_000
    assert key.account.limits.money_per_month == 20_250_000
    assert key.account.models == {"avibe", "avision"}
    assert (key.account.priority, key.notes, key.expires_at) == ("low", "Ask Anna <1>", 1893553440)
    page = operator.get(f"/status/keys/{key.id}").text
    for name in ("name", "models", "expires_at", *LIMITS):
        shown = FULL[name].replace(",", ".") if name.startswith("money") else FULL[name]
        assert f'name="{name}"' in page
        assert f'value="{shown}"' in page
    assert "Ask Anna &lt;1&gt;</textarea>" in page
    assert '<option value="low" selected>' in page


@pytest.mark.parametrize("limit", LIMITS)
def test_every_limit_is_read_as_it_is_shown(limit):
    """An empty field is no limit of its own; zero is one."""
    for value in (0, 1, 1_234_567):
        assert fields_of({"name": "x", limit: shown_limit(limit, value)})[limit] == value
    assert fields_of({"name": "x", limit: ""})[limit] is None


def test_a_key_is_changed_and_emptied_fields_go_back(operator, registry):
    """An empty field takes a limit, the models or the expiry back to the default."""
    make(operator, **FULL)
    key = registry.find("billing")
    address = f"/status/keys/{key.id}"
    saved = act(operator, address, address, **FULL | {"tokens_per_day": "7", "models": "", "expires_at": ""})
    assert saved.status_code == 303
    changed = registry.find("billing")
    assert (changed.account.limits.tokens_per_day, changed.account.models, changed.expires_at) == (7, None, None)
    assert "Saved." in operator.get(saved.headers["Location"]).text


def test_what_has_become_past_or_unknown_may_stay(operator, registry, app):
    """A key that is over, for a model that is gone, is changed in its other fields, and keeps its seconds."""
    make(operator, **FULL)
    earlier = KeyRegistry(services(app).database, lambda: 0.0)
    key = earlier.change(Actor("test"), "billing", expires_at=61, models=["avibe@v0"])
    address = f"/status/keys/{key.id}"
    shown = FULL | {"expires_at": "1970-01-01T00:01", "models": "avibe@v0"}
    assert act(operator, address, address, **shown | {"notes": "new"}).status_code == 303
    changed = registry.find("billing")
    assert (changed.notes, changed.expires_at, changed.account.models) == ("new", 61, {"avibe@v0"})
    refused = act(operator, address, address, **shown | {"models": "avibe@v0, avibe"})
    assert "only models of this service" in refused.text


class TestTwoOperators:
    """Both open the form of a key, and each changes it."""

    ANOTHER = Actor("another")

    @pytest.fixture
    def opened(self, operator, registry):
        """A form that is open: its address, and what a browser sends back if nothing is typed."""
        make(operator, **FULL | {"notes": "one\r\ntwo"})
        address = f"/status/keys/{registry.find('billing').id}"
        return address, fields_in(operator.get(address).text)

    def test_a_form_sends_what_was_typed_anew(self, operator, registry, opened):
        """What another has changed since stays, and the audit trail has the operator's change alone."""
        address, form = opened
        registry.change(self.ANOTHER, "billing", priority="high", tokens_per_day=7, models=None, notes="one\nthree")
        assert operator.post(address, data=form | {"requests_per_minute": "61"}).status_code == 303
        key = registry.find("billing")
        assert (key.account.priority, key.account.models, key.notes) == ("high", None, "one\nthree")
        assert (key.account.limits.tokens_per_day, key.account.limits.requests_per_minute) == (7, 61)
        details = re.findall(r'<td class="details">(.*?)</td>', operator.get("/status/audit").text)[0]
        assert re.findall(r'<span class="limit">[^<]+: <b>([^<]*)</b>', details) == ["billing", "61"]

    @pytest.mark.parametrize("language", ["en", "ru"])
    def test_the_same_field_is_not_set_back_in_silence(self, operator, registry, opened, language):
        """409 with both values; nothing is saved before it is sent again, and that saves what was typed."""
        operator.environ_base["HTTP_ACCEPT_LANGUAGE"] = language
        texts = LOCALES[language].texts["client_keys"]
        address, form = opened
        registry.change(self.ANOTHER, "billing", priority="high", notes="theirs <b>", tokens_per_day=7)
        typed = {"priority": "normal", "notes": "ours", "requests_per_hour": "9"}
        refused = operator.post(address, data=form | typed)
        assert refused.status_code == 409
        told = re.search(r'role="alert">([^<]*)<', refused.text)[1]
        assert f"{texts['fields']['priority']}: " in told
        assert texts["problems"]["meanwhile"].format(value=texts["priorities"]["high"]) in told
        assert texts["problems"]["meanwhile"].format(value="theirs &lt;b&gt;") in told
        assert texts["fields"]["tokens_per_day"] not in told
        assert re.findall(r'name="(\w+)"[^>]* aria-invalid="true"', refused.text) == ["priority"]
        key = registry.find("billing")
        assert (key.account.priority, key.notes, key.account.limits.requests_per_hour) == ("high", "theirs <b>", 0)
        again = fields_in(refused.text)
        assert {name: again[name] for name in typed} == typed
        assert operator.post(address, data=again).status_code == 303
        key = registry.find("billing")
        assert (key.account.priority, key.notes, key.account.limits.requests_per_hour) == ("normal", "ours", 9)
        assert key.account.limits.tokens_per_day == 7

    def test_the_same_change_of_both_is_none(self, operator, registry, opened):
        """Nor is a change that was typed and taken back."""
        address, form = opened
        registry.change(self.ANOTHER, "billing", priority="high")
        assert operator.post(address, data=form | {"priority": "high"}).status_code == 303
        assert operator.post(address, data=form).status_code == 303
        assert registry.find("billing").account.priority == "high"

    def test_a_wrong_field_does_not_make_the_others_new(self, operator, registry, opened):
        """A form that comes back with a mistake still knows what it showed at first."""
        address, form = opened
        registry.change(self.ANOTHER, "billing", priority="high")
        refused = operator.post(address, data=form | {"tokens_per_day": "x"})
        assert refused.status_code == 400
        assert operator.post(address, data=fields_in(refused.text) | {"tokens_per_day": "8"}).status_code == 303
        key = registry.find("billing")
        assert (key.account.priority, key.account.limits.tokens_per_day) == ("high", 8)

    def test_a_change_between_the_look_and_the_act_is_seen(self, registry, opened):
        """The database compares, in the transaction that writes."""
        looked_at = registry.find("billing")
        registry.change(self.ANOTHER, "billing", priority="high", tokens_per_day=7)
        with pytest.raises(ChangedMeanwhile) as raised:
            registry.change(
                self.ANOTHER, "billing", looked_at=looked_at, priority="normal", notes="x", tokens_per_day=8
            )
        assert set(raised.value.fields) == {"priority", "tokens_per_day"}
        assert registry.change(self.ANOTHER, "billing", looked_at=looked_at, notes="x").account.priority == "high"

    @pytest.mark.parametrize("shown", ["", "{}", "[]", "1", "null", '{"name": 1}', "{"])
    def test_a_form_that_says_nothing_of_what_it_showed_is_compared_with_what_is(
        self, operator, registry, opened, shown
    ):
        """As a program sends it, with every field."""
        address, form = opened
        assert operator.post(address, data=form | {"shown": shown, "priority": "high"}).status_code == 303
        assert registry.find("billing").account.priority == "high"


AT_FAULT = re.compile(r'name="(\w+)"[^>]* aria-describedby="problem[^>]* aria-invalid="true"')
WRONG = {
    "name": ["", " ", "x" * 129, "a\nb"],
    "models": ["gpt-4o", "avibe@v2", "x" * 200, ",".join(f"m{n}" for n in range(65))],
    "priority": ["urgent"],
    "notes": ["x" * 2001],
    "expires_at": ["tomorrow", "2030-13-01", "9" * 30, "2020-01-02T03:04"],
    "money_per_day": ["-1", "1.1234567", "1e9", "a", "1,500", "1,500.5"],
    **{name: ["-1", "1.5", "1e3", "٣", "9" * 16, "x"] for name in LIMITS if not name.startswith("money")},
}


@pytest.mark.parametrize("language", ["en", "ru"])
def test_a_wrong_field_is_named_and_what_was_typed_stays(operator, registry, language):
    """400 in the operator's language; nothing is made."""
    operator.environ_base["HTTP_ACCEPT_LANGUAGE"] = language
    texts = LOCALES[language].texts["client_keys"]["fields"]
    token = token_in(operator.get("/status/keys/new"))
    for field, value in [(field, value) for field, values in WRONG.items() for value in values]:
        answer = operator.post("/status/keys", data=FULL | {csrf.FIELD: token, field: value})
        assert answer.status_code == 400, (field, value)
        assert f'role="alert">{texts[field]}: ' in answer.text, (field, value)
        assert re.findall(r'name="(\w+)"[^>]* aria-describedby="problem[^>]* aria-invalid="true"', answer.text) == [
            field
        ]
        assert "Ask Anna" in answer.text or field == "notes"
    assert registry.page("", "", 9) == []


def test_a_name_is_one_of_a_kind(operator):
    """The form says so."""
    make(operator, name="shop")
    assert "a key of this name already" in act(operator, "/status/keys", name="shop").text


def test_a_key_is_disabled_enabled_rotated_and_removed(operator, registry, app):
    """Each counts with the next look at the database, and each is in the audit trail with its actor."""
    text = make(operator, name="shop")
    key = registry.find("shop")
    address = f"/status/keys/{key.id}"

    def status(offered):
        services(app).key_store.refresh()
        return app.test_client().get("/v1/models", headers={"Authorization": f"Bearer {offered}"}).status_code

    act(operator, f"{address}/disable", address)
    assert status(text) == 401
    assert 'data-state="disabled"' in operator.get("/status/keys").text
    act(operator, f"{address}/enable", address)
    assert status(text) == 200
    rotated = act(operator, f"{address}/rotate", address, grace="hour")
    other = re.search(r'id="secret"[^>]*>([^<]+)</textarea>', rotated.text)[1]
    assert rotated.headers["Cache-Control"] == "no-store"
    assert [status(text), status(other)] == [200, 200]
    assert registry.find("shop").previous_until - time.time() == pytest.approx(3600, abs=60)
    act(operator, f"{address}/rotate", address)
    assert [status(text), status(other)] == [401, 401]
    act(operator, f"{address}/delete", address)
    assert operator.get(address).status_code == 404
    page = operator.get("/status/audit").text
    found = re.findall(r"<td>(\w+)</td><td>([\d.]+)</td><td><code>key\.(\w+)</code>", page)
    assert found == [("admin", "203.0.113.7", what) for what in "delete rotate rotate enable disable create".split()]


def test_many_keys_are_paged_and_found(operator, registry, app):
    """A page has fifty; names, ids and notes are searched, with signs of patterns as they stand, in any alphabet."""
    with services(app).database.engine().begin() as connection:
        rows = [
            {
                "id": f"{number:012}",
                "name": f"client {number:05}",
                "hash": f"{number:064}",
                "created_at": 1,
                "revision": 1,
            }
            for number in range(1000)
        ]
        connection.execute(insert(API_KEYS), rows)
    make(operator, name="Магазин 100%", notes="под_чертой")
    first = operator.get("/status/keys").text
    assert first.count('<tr><th scope="row">') == 50
    following = operator.get(re.search(r'href="([^"]+)" rel="next"', first)[1].replace("&amp;", "&")).text
    assert "client 00050" in following
    assert "client 00049" not in following
    for wanted, count in (("CLIENT 0012", 10), ("магазин", 0), ("Магазин", 1), ("100%", 1), ("д_ч", 1), ("0%0", 0)):
        page = operator.get("/status/keys", query_string={"q": wanted}).text
        assert page.count('<tr><th scope="row">') == count, wanted
    assert registry.page("client 0099", "client 00995", 50)[0].name == "client 00996"


def test_the_audit_trail_is_paged(operator, registry):
    """A hundred acts a page, the newest first."""
    key, _ = registry.make(Actor("tests"), "x")
    for number in range(120):
        registry.change(Actor("tests"), key.id, notes=str(number))
    first = operator.get("/status/audit").text
    assert first.count("key.change") == 100
    rest = operator.get(re.search(r'href="([^"]+)" rel="next"', first)[1]).text
    assert (rest.count("key.change"), rest.count("key.create")) == (20, 1)


@pytest.mark.parametrize("language", ["en", "ru"])
def test_the_details_of_an_act_are_shown_as_the_key_is(operator, registry, language):
    """Amounts in the currency, times in UTC, fields by their names; a limit that was taken back is a dash."""
    operator.environ_base["HTTP_ACCEPT_LANGUAGE"] = language
    texts = LOCALES[language].texts["client_keys"]
    make(operator, **FULL)
    key = registry.find("billing")
    address = f"/status/keys/{key.id}"
    act(operator, address, address, **FULL | {"money_per_day": "", "priority": "high", "notes": ""})
    act(operator, f"{address}/rotate", address, grace="day")
    rotated, changed, made = re.findall(r'<td class="details">(.*?)</td>', operator.get("/status/audit").text)
    shown = dict(re.findall(r'<span class="limit">([^<]+): <b>([^<]*)</b>', made))
    fields = texts["fields"]
    assert shown[fields["money_per_month"]] == "20.25"
    assert shown[fields["expires_at"]] == "2030-01-02 03:04"
    assert shown[fields["priority"]] == texts["priorities"]["low"]
    assert shown.keys() == {fields[name] for name in FULL}
    assert dict(re.findall(r'<span class="limit">([^<]+): <b>([^<]*)</b>', changed)) == {
        fields["name"]: "billing",
        fields["money_per_day"]: "–",
        fields["priority"]: texts["priorities"]["high"],
        fields["notes"]: "–",
    }
    assert texts["grace"] in rotated


def test_a_name_of_a_key_is_text(operator):
    """Whatever it holds, on every page of the operator's."""
    make(operator, name="<script>alert(1)</script>", notes="</textarea><b>")
    for page in ("/status/keys", "/status/audit"):
        assert "<script>alert" not in operator.get(page).text


def test_a_database_that_fails_is_said(operator, registry, app):
    """503 without its address."""

    def broken():
        raise OperationalError("select", {}, Exception("postgresql://user:secret@host"))  # pragma: allowlist secret

    services(app).database.engine = broken
    registry._database.engine = broken
    for page in ("/status/keys", "/status/audit", "/status/keys/aaaaaaaaaaaa"):
        answer = operator.get(page)
        assert answer.status_code == 503
        assert "secret" not in answer.text
    assert operator.get("/status").status_code == 200
    kept = act(operator, "/status/keys", **FULL)
    assert (kept.status_code, "Ask Anna" in kept.text, "secret@" in kept.text) == (503, True, False)


@pytest.mark.parametrize("authorization", ["Bearer wrong", "anything"])
def test_nobody_on_this_machine_acts_in_the_operators_name(app, authorization):
    """A header that was not looked at proves nothing: the audit trail says that it was somebody on this machine."""
    client = app.test_client()
    client.environ_base = {**client.environ_base, "HTTP_AUTHORIZATION": authorization}
    make(client, name="shop")
    page = client.get("/status/audit").text
    assert re.findall(r"<td>(\w+)</td><td>([\d.:]+)</td><td><code>key\.", page) == [("local", "127.0.0.1")]
