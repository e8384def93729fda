"""Which copy gets a request: the rules of the balancers in deploy/haproxy, deploy/nginx and of a plain round robin.

`leastconn`: the copy with the fewest requests; `hash`: always the conversation's copy, by consistent hashing (Karger et
al., STOC 1997), as nginx's `hash ... consistent`; `bounded`: that, but no copy beyond `FACTOR` times the mean load, the
next on the ring instead (Mirrokni et al., SODA 2018), as HAProxy's `hash-balance-factor`.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect, insort
from collections.abc import Callable

from benchmarks.fleet.replica import Replica

POINTS = 64  # of each copy on the ring
FACTOR = 1.25
RING = 2**32


class Balancer:
    """Copies that get requests, and the rule by which. A copy that has died stays until `remove` is called."""

    def __init__(self, rule: str, seed: int = 0) -> None:
        self._choose: Callable[[int], Replica] = {
            "round robin": self._in_turn,
            "leastconn": self._least,
            "hash": self._by_hash,
            "bounded": self._bounded,
        }[rule]
        self.replicas: list[Replica] = []
        self.total = 0  # requests that have not ended
        self._seed, self._turn, self._order = seed, 0, 0
        self._ring: list[tuple[int, int, Replica]] = []
        self._heap: list[tuple[int, int, Replica]] = []
        self._in = set[int]()

    def add(self, replica: Replica) -> None:
        """Let a copy get requests."""
        self.replicas.append(replica)
        self._in.add(replica.number)
        points = random.Random(f"{self._seed} {replica.number}")
        for point in range(POINTS):
            insort(self._ring, (points.randrange(RING), replica.number * POINTS + point, replica))
        self._push(replica)

    def remove(self, replica: Replica) -> None:
        """Let a copy get no more requests."""
        self.replicas.remove(replica)
        self._in.discard(replica.number)
        self._ring = [point for point in self._ring if point[2] is not replica]

    def choose(self, conversation: int) -> Replica:
        """Return the copy for the next request of a conversation, and count it there."""
        replica = self._choose(conversation)
        replica.outstanding += 1
        self.total += 1
        self._push(replica)
        return replica

    def ended(self, replica: Replica) -> None:
        """Count the end of a request at a copy, which has counted it already."""
        self.total -= 1
        self._push(replica)

    def _push(self, replica: Replica) -> None:
        self._order += 1
        heapq.heappush(self._heap, (replica.outstanding, self._order, replica))

    def _in_turn(self, conversation: int) -> Replica:
        self._turn += 1
        return self.replicas[self._turn % len(self.replicas)]

    def _least(self, conversation: int) -> Replica:
        while True:
            outstanding, _, replica = heapq.heappop(self._heap)
            if replica.number in self._in and outstanding == replica.outstanding:
                return replica

    def _by_hash(self, conversation: int) -> Replica:
        return self._ring[self._place(conversation)][2]

    def _bounded(self, conversation: int) -> Replica:
        most = FACTOR * (self.total + 1) / len(self.replicas)
        at = self._place(conversation)
        for step in range(len(self._ring)):
            replica = self._ring[(at + step) % len(self._ring)][2]
            if replica.outstanding + 1 <= max(1.0, most):
                return replica
        return self._ring[at][2]

    def _place(self, conversation: int) -> int:
        key = conversation * 2_654_435_761 % RING  # Knuth's multiplicative hash spreads consecutive numbers
        return bisect(self._ring, (key,)) % len(self._ring)
