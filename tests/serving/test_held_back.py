"""Requests that no thread is given yet."""

from types import SimpleNamespace

import pytest

from edge.in_service import PATIENT
from edge.request_head import read_head
from serving.held_back import LINE, PACE, HeldBack

COURTESY = 0.5
ASKS = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
LIGHT = {
    "page": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "preflight": b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n",
    "stop": b"DELETE /api/v1/streams/1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "tokenize": ASKS.replace(b"/v1/chat/completions", b"/v1/tokenize"),
    "nowhere": ASKS.replace(b"/v1/chat/completions", b"/nowhere"),
}


class Poller:
    """Holds requests back; `too_many` names the clients with many, and `served` what threads were given."""

    def __init__(self):
        self.now, self.too_many, self.served, self.dropped = 0.0, {"many"}, [], []
        self.of_light = 0.0
        self.held = HeldBack(self.courtesy, self.served.append, self.dropped.append, lambda: self.now)

    def courtesy(self, client, light):
        return (self.of_light if light else COURTESY) if client in self.too_many else 0.0

    def come(self, client, head=ASKS):
        request = SimpleNamespace(plain=read_head(head))
        conn = SimpleNamespace(
            asked_by=client, sock=SimpleNamespace(request_head=head, request=request, has_left=False)
        )
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


def test_who_waited_for_others_goes_on_one_after_the_other(poller):
    """Once a turn is free for it; who has waited for as long as courtesy asks waits for that no longer."""
    conns = [poller.come("many") for _ in range(4)]
    poller.held._free = lambda: len(poller.served) < turns
    poller.too_many.clear()
    for turns in (0, 1, 1, 2):
        poller.held.hand_on()
        assert poller.served == conns[:turns]
    poller.too_many.add("many")
    poller.now = COURTESY
    poller.held.hand_on()
    assert poller.served == conns
    assert not poller.held


def test_who_waited_goes_on_also_where_others_take_every_turn(poller):
    """One of a line in so much time, from the last one on that did, and who has waited for very long."""
    conns = [poller.come("many") for _ in range(6)]
    poller.held._free = lambda: False
    poller.too_many.clear()
    for at, served in ((0.9, 0), (1.0, 1), (1.9, 1), (2.0, 2), (3.5, 3), (PATIENT / PACE, 6)):
        poller.now = at * PACE
        poller.held.hand_on()
        assert poller.served == conns[:served]


def test_at_the_end_all_are_served(poller):
    """A service that drains loses none of them."""
    conns = [poller.come("many"), poller.come("many")]
    poller.held._free = lambda: False
    poller.held.hand_on(everything=True)
    assert poller.served == conns


@pytest.mark.parametrize("head", LIGHT.values(), ids=LIGHT)
def test_what_is_light_is_not_behind_what_waits(poller, head):
    """A page is shown, and an answer stopped, while its client's questions wait."""
    asked = poller.come("many")
    read = poller.come("many", head)
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


def test_what_is_light_waits_for_itself(poller):
    """Where it has to wait at all, it goes on after its own courtesy, not after that of what came before."""
    poller.come("many")
    poller.of_light = COURTESY / 5
    read = poller.come("many", LIGHT["page"])
    poller.now = poller.of_light
    poller.held.hand_on()
    assert poller.served == [read]


def test_what_no_head_tells_counts_as_heavy(poller):
    """Nobody goes past a line with a head that only the server's own parser reads."""
    poller.come("many", b"POST http://a/v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
    assert poller.served == []


def test_newcomers_wait_behind_those_who_wait(poller):
    """Also where they would not have to, were they first."""
    first = poller.come("many")
    poller.too_many.clear()
    second = poller.come("many")
    assert poller.served == []
    poller.held.hand_on()
    assert poller.served == [first, second]


@pytest.mark.parametrize("head", [ASKS, *LIGHT.values()], ids=["asks", *LIGHT])
def test_no_line_is_longer(poller, head):
    """What came past the gate together, or is not refused from its head, takes no more connections."""
    poller.of_light = COURTESY
    conns = [poller.come("many", head) for _ in range(LINE + 3)]
    assert poller.served == conns[:3]


def test_who_has_left_holds_no_place(poller):
    """And is not served: its next try is not behind it."""
    conns = [poller.come("many") for _ in range(LINE)]
    conns[1].sock.has_left = True
    poller.held.drop_who_left()
    assert poller.dropped == [conns[1]]
    assert not poller.held.full("many")
    poller.held.hand_on(everything=True)
    assert poller.served == [conns[0], *conns[2:]]
    conns = [poller.come("many")]
    conns[0].sock.has_left = True
    poller.held.drop_who_left()
    assert poller.dropped[1:] == conns


@pytest.mark.parametrize("head", LIGHT.values(), ids=LIGHT)
def test_what_is_light_is_done_for_who_has_left(poller, head):
    """A page that is closed may have stopped its answer with its last breath."""
    poller.of_light = COURTESY
    conn = poller.come("many", head)
    conn.sock.has_left = True
    poller.held.drop_who_left()
    assert poller.dropped == []
    poller.held.hand_on(everything=True)
    assert poller.served == [conn]
