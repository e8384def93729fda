"""The store of responses: whose they are, how long they are kept, and how much."""

from functools import partial

import pytest

from engine.errors import Overloaded, Unsupported, ValidationError
from routes.openai.responses.store import ENTRY_BYTES, KEPT_SECONDS, TURN_BYTES, ResponseStore
from tests.fakes import Clock
from tests.threads import together

KIB = 1024


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    return ResponseStore(100 * KIB, clock=clock)


def keep(store, name, owner="a", items=b"[]", body=b"{}", output=b"[]", previous=None):
    """Store a response; return it."""
    draft = store.draft(owner, previous, [items])
    draft.keep(name, body, output)
    draft.close()
    return store.find(owner, name)


def test_a_response_is_found_by_who_made_it_alone(store):
    """Another client's question has the same answer as one for an id that never was."""
    assert keep(store, "one").body == b"{}"
    assert store.find("b", "one") is None
    assert not store.delete("b", "one")
    assert store.find("a", "one") is not None
    assert store.find("a", "two") is None


def test_a_response_expires_after_an_hour(store, clock):
    """Its bytes are free again, whoever asks first."""
    keep(store, "one")
    clock.advance(KEPT_SECONDS - 1)
    keep(store, "two")
    assert store.find("a", "one") is not None
    clock.advance(1)
    assert store.find("a", "one") is None
    assert store.size()[0] == 1
    clock.advance(KEPT_SECONDS)
    assert store.size() == (0, 0)


def test_the_turns_of_a_conversation_are_kept_once(store):
    """However long the chain; a later response keeps what it goes on from, though that was deleted."""
    first = keep(store, "one", items=b"x" * 5000, output=b"y" * 3000)
    second = keep(store, "two", items=b"z" * 1000, previous=first)
    assert [len(turn.items) for turn in second.turns] == [5000, 3000, 1000, 2]
    both = 5000 + 3000 + 1000 + 2 + 2 * (2 + ENTRY_BYTES) + (2 + 4) * TURN_BYTES
    assert store.size() == (2, both)
    assert store.delete("a", "one")
    assert store.size() == (1, both - 2 - ENTRY_BYTES - 2 * TURN_BYTES)
    assert store.delete("a", "two")
    assert store.size() == (0, 0)


def test_the_bound_is_never_exceeded(store):
    """The oldest responses go."""
    for number in range(40):
        keep(store, str(number), body=b"x" * 8 * KIB)
        assert store.size()[1] <= 100 * KIB
    assert store.find("a", "39") is not None
    assert store.find("a", "0") is None


def test_who_stores_most_makes_room(store):
    """One client cannot drive out another's responses."""
    keep(store, "kept", owner="b")
    for number in range(40):
        keep(store, str(number), body=b"x" * 8 * KIB)
    assert store.find("b", "kept") is not None


def test_room_is_made_until_who_stores_most_has_no_more_than_others(store):
    """Their oldest go, and nothing of the others while they have less."""
    for owner, number in (("a", 1), ("b", 1), ("a", 2), ("c", 1), ("b", 2), ("a", 3), ("a", 4), ("a", 5)):
        keep(store, f"{owner}{number}", owner, body=b"x" * 9 * KIB)
    store.draft("d", None, [b"x" * 40 * KIB])
    assert store.size()[0] == 5
    assert all(store.find(name[0], name) is not None for name in ("a4", "a5", "b1", "b2", "c1"))


def test_the_number_of_responses_is_bounded(clock):
    """Small ones too."""
    store = ResponseStore(100 * KIB * KIB, max_responses=5, clock=clock)
    for number in range(9):
        keep(store, str(number))
    assert store.size()[0] == 5


def test_a_conversation_beyond_half_of_the_bound_is_refused(store):
    """With the field that asks for it; nothing is held."""
    with pytest.raises(ValidationError) as caught:
        store.draft("a", None, [b"x" * 51 * KIB])
    assert caught.value.param == "store"
    assert store.size() == (0, 0)


def test_what_is_being_answered_counts(store):
    """Its items are held until then; beyond the bound, or half of it for one client, one more is refused for now."""
    keep(store, "one")
    _, kept = store.size()
    drafts = [store.draft(owner, None, [b"x" * 30 * KIB]) for owner in "abc"]
    assert store.size() == (1, kept + 90 * KIB)
    for owner in "ad":
        with pytest.raises(Overloaded):
            store.draft(owner, None, [b"x" * 30 * KIB])
    assert store.find("a", "one") is not None
    for draft in drafts:
        draft.close()
        draft.close()
    assert store.size() == (1, kept)
    store.draft("a", None, [b"x" * 30 * KIB]).close()


def test_nothing_is_stored_without_a_bound():
    """0 switches it off, by name."""
    with pytest.raises(Unsupported) as caught:
        ResponseStore(0).draft("a", None, [b"[]"])
    assert caught.value.param == "store"


def test_many_threads_leave_nothing_behind(store, clock):
    """Kept, found, deleted and expired from several threads at once, the books are even."""

    def use(owner):
        for number in range(200):
            name = f"{owner}-{number}"
            keep(store, name, owner, items=b"x" * 700)
            if number % 3:
                store.delete(owner, name)

    together(*(partial(use, owner) for owner in "abcd"))
    assert store.size()[1] <= 100 * KIB
    clock.advance(KEPT_SECONDS)
    assert store.size() == (0, 0)
