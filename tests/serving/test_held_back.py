"""Requests that no thread is given yet."""

from types import SimpleNamespace

import pytest

from serving.held_back import LINE, HeldBack

COURTESY = 0.5


class Poller:
    """Holds requests back; `too_many` names the clients with many, and `served` what threads were given."""

    def __init__(self):
        self.now, self.too_many, self.served = 0.0, {"many"}, []
        self.held = HeldBack(self.courtesy, self.served.append, lambda: self.now)

    def courtesy(self, client, reads):
        return COURTESY if client in self.too_many and not reads else 0.0

    def come(self, client, head=b"POST /"):
        conn = SimpleNamespace(asked_by=client, sock=SimpleNamespace(request_head=head))
        self.held.put(conn)
        return conn


@pytest.fixture
def poller():
    return Poller()


def test_a_client_with_few_requests_does_not_wait(poller):
    """Whoever else does."""
    poller.come("many")
    assert poller.served == [poller.come("few")]


def test_who_waited_goes_on_when_the_others_have_ended(poller):
    """In the order in which they came, and no earlier."""
    conns = [poller.come("many") for _ in range(3)]
    poller.held.hand_on()
    assert poller.served == []
    poller.too_many.clear()
    poller.held.hand_on()
    assert poller.served == conns
    poller.held.hand_on()
    assert poller.served == conns


def test_nobody_waits_for_longer_than_courtesy_asks(poller):
    """Each from its own arrival on."""
    first = poller.come("many")
    poller.now = COURTESY / 2
    second = poller.come("many")
    poller.now = COURTESY
    poller.held.hand_on()
    assert poller.served == [first]
    poller.now = 1.5 * COURTESY
    poller.held.hand_on()
    assert poller.served == [first, second]


def test_each_client_waits_for_itself(poller):
    """One that no longer has too many is not behind one that has."""
    poller.too_many.add("more")
    poller.come("many")
    conn = poller.come("more")
    poller.too_many.remove("more")
    poller.held.hand_on()
    assert poller.served == [conn]


def test_only_so_many_go_on_as_others_do_not_notice(poller):
    """What was handed over counts at once: the rest waits on."""
    conns = [poller.come("many") for _ in range(5)]
    poller.held._courtesy = lambda client, reads: COURTESY * (len(poller.served) >= 2)
    poller.held.hand_on()
    assert poller.served == conns[:2]


def test_at_the_end_all_are_served(poller):
    """A service that drains loses none of them."""
    conns = [poller.come("many"), poller.come("many")]
    poller.held.hand_on(everything=True)
    assert poller.served == conns


def test_what_only_reads_is_not_behind_what_waits(poller):
    """A page is shown, and looked for again, while its client's questions wait."""
    asked = poller.come("many")
    read = poller.come("many", b"GET / HTTP/1.1")
    assert poller.served == [read]
    poller.too_many.clear()
    poller.held.hand_on()
    assert poller.served == [read, asked]


def test_a_line_is_full_with_so_many_of_one_client(poller):
    """Others' lines are not, nor is it once the first of it has gone on."""
    for _ in range(LINE - 1):
        poller.come("many")
    assert not poller.held.full("many")
    poller.come("many")
    assert poller.held.full("many")
    assert not poller.held.full("few")
    poller.now = COURTESY
    poller.held.hand_on()
    assert not poller.held.full("many")
