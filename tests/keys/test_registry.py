"""Keys in the database: made, changed, rotated and removed, each with an entry in the audit trail."""

import threading
from functools import partial

import pytest

from database.audit import acts
from database.connect import Database, sqlite_url
from keys.account import Limits
from keys.record import KeyFieldError
from keys.registry import KeyRegistry, UnknownKey
from keys.secret import digest
from tests.threads import together

EVERYTHING = {
    "expires_at": 2_000_000_000,
    "priority": "low",
    "models": ["avision", "avibe"],
    "notes": "for the billing of шины",
    "requests_per_minute": 60,
    "requests_per_hour": 0,
    "concurrent_requests": 3,
    "tokens_per_minute": 1000,
    "tokens_per_day": 2000,
    "tokens_per_month": 3000,
    "money_per_day": 1_500_000,
    "money_per_month": 9_000_000,
}


def test_a_key_keeps_every_field(registry, by, clock):
    """What is made is what is found, by id and by name."""
    made, text = registry.make(by, "billing", **EVERYTHING)
    found = registry.find("billing")
    assert found == made == registry.find(made.id)
    assert (found.hash, found.created_at, found.expires_at) == (digest(text), int(clock()), 2_000_000_000)
    account = found.account
    assert (account.id, account.name, account.priority) == (f"key:{made.id}", "billing", "low")
    assert account.models == {"avibe", "avision"}
    assert account.limits == Limits(60, 0, 3, 1000, 2000, 3000, 1_500_000, 9_000_000)
    assert found.notes == "for the billing of шины"


def test_nothing_stored_holds_the_secret(registry, by, tmp_path):
    """Neither the table nor the audit trail, in whatever file of the database."""
    _, text = registry.make(by, "billing")
    secret = text.rpartition("_")[2].encode()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and secret in file.read_bytes()]


def test_fields_change_and_go_back_to_their_defaults(registry, by):
    """None removes a limit; what is not named stays."""
    key, _ = registry.make(by, "billing", **EVERYTHING)
    changed = registry.change(by, key.id, requests_per_minute=None, models=None, priority=None, name="bills")
    assert changed.account.limits.requests_per_minute is None
    assert changed.account.limits.requests_per_hour == 0
    assert (changed.account.models, changed.account.priority, changed.name) == (None, "normal", "bills")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "x" * 129),
        ("name", "a\nb"),
        ("priority", "urgent"),
        ("models", []),
        ("models", ["a,b"]),
        ("models", [""]),
        ("notes", "x" * 2001),
        ("notes", "a\0b"),
        ("notes", "\udcff"),
        ("requests_per_minute", -1),
        ("tokens_per_day", True),
        ("money_per_day", 1.5),
        ("expires_at", "tomorrow"),
        ("hash", "0" * 64),
        ("nothing", 1),
    ],
)
def test_a_wrong_field_is_named_and_changes_nothing(registry, by, field, value):
    """Of a new key and of one that is there."""
    key, _ = registry.make(by, "billing")
    with pytest.raises(KeyFieldError, match=field):
        registry.change(by, key.id, **{field: value})
    if field != "name":
        with pytest.raises(KeyFieldError, match=field):
            registry.make(by, "other", **{field: value})
    assert registry.all() == [key]


def test_names_are_of_one_key_each(registry, by):
    """Logs and metrics tell keys apart by their names."""
    first, _ = registry.make(by, "billing")
    registry.make(by, "other")
    for name in ("billing", first.id):
        with pytest.raises(KeyFieldError, match="already"):
            registry.make(by, name)
        with pytest.raises(KeyFieldError, match="already"):
            registry.change(by, "other", name=name)
    assert registry.change(by, first.id, name="billing").name == "billing"


@pytest.mark.parametrize("act", ["change", "disable", "enable", "rotate", "delete"])
def test_an_unknown_key_is_refused(registry, by, act):
    """And no revision tells the copies of a change."""
    before = registry.revisions()
    with pytest.raises(UnknownKey):
        getattr(registry, act)(by, "nobody")
    assert registry.revisions() == before


def test_every_change_is_audited_with_its_actor_and_without_secrets(registry, by, database):
    """In the transaction of the change; its details are what is now otherwise than before."""
    key, _ = registry.make(by, "billing", tokens_per_day=5, money_per_day=6, models=None)
    registry.change(by, key.id, tokens_per_day=7, money_per_day=None, models=None, priority="normal", notes="")
    registry.disable(by, key.id)
    registry.enable(by, key.id)
    rotated, _ = registry.rotate(by, "billing", grace=60)
    registry.delete(by, key.id)
    entries = acts(database.engine())
    assert [act.action for act in reversed(entries)] == [
        "key.create", "key.change", "key.disable", "key.enable", "key.rotate", "key.delete",
    ]  # fmt: skip
    assert {(act.actor, act.address, act.target) for act in entries} == {("anna", "10.0.0.1", f"key:{key.id}")}
    assert entries[5].details == {"name": "billing", "tokens_per_day": 5, "money_per_day": 6}
    assert entries[4].details == {"name": "billing", "tokens_per_day": 7, "money_per_day": None}
    shown = str([act.details for act in entries])
    assert not [secret for secret in (key.hash, rotated.hash, rotated.previous_hash) if secret in shown]


def test_a_rotation_keeps_the_old_secret_for_the_grace_time_alone(registry, by, clock):
    """Without a grace time the old one is forgotten."""
    key, _ = registry.make(by, "billing")
    rotated, text = registry.rotate(by, key.id, grace=60)
    assert (rotated.id, rotated.hash) == (key.id, digest(text))
    assert (rotated.previous_hash, rotated.previous_until) == (key.hash, int(clock()) + 60)
    again, _ = registry.rotate(by, key.id)
    assert (again.previous_hash, again.previous_until) == (None, None)


def test_writers_at_once_lose_no_change(tmp_path, by):
    """Revisions are handed out one after the other, also to the first two writers."""
    url, start = sqlite_url(tmp_path / "avito-ai.db"), threading.Barrier(4)
    KeyRegistry(Database(url)).all()

    def make(number):
        registry = KeyRegistry(Database(url))
        start.wait()
        for turn in range(5):
            registry.make(by, f"{number}-{turn}")

    together(*(partial(make, number) for number in range(4)))
    registry = KeyRegistry(Database(url))
    assert len(registry.all()) == 20
    assert registry.revisions() == (20, 0)
