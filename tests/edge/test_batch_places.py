"""The places of batches are bounded, shared between clients, and given back once."""

import pytest

from edge.batch_places import RETRY_AFTER, BatchPlaces
from engine.errors import Overloaded


def refused(places, client):
    """Return whether a batch of a client is refused, which `would_refuse` has told."""
    told = places.would_refuse(client)
    if told is None:
        places.take(client)
        return False
    with pytest.raises(Overloaded) as raised:
        places.take(client)
    assert told.retry_after == raised.value.retry_after == RETRY_AFTER
    return True


def test_one_client_has_half_of_the_places():
    """The first batch of another has one all the same, and so has the last of many clients."""
    places = BatchPlaces(8, 0)
    assert [refused(places, "greedy") for _ in range(6)] == [False] * 4 + [True] * 2
    assert [refused(places, f"other-{number}") for number in range(5)] == [False] * 4 + [True]


def test_a_place_is_given_back_once():
    """Also where that is done twice: another batch may have it by then."""
    places = BatchPlaces(1, 0)
    leave = places.take("a")
    assert refused(places, "b")
    leave()
    assert not refused(places, "b")
    leave()
    assert refused(places, "a")


def test_a_single_place_goes_to_whoever_comes():
    """However small the service, one batch runs."""
    places = BatchPlaces(1, 0)
    places.take("a")()
    places.take("a")
    with pytest.raises(Overloaded):
        places.take("a")


def test_clients_that_have_left_are_forgotten():
    """Strangers have keys without number."""
    places = BatchPlaces(2, 0)
    for number in range(100):
        places.take(f"client-{number}")()
    assert not places._taken
