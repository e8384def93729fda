"""Waiting sequences in an order that is fair between clients.

The client with the fewest slots comes first; among equals it is deficit round robin, counted in tokens (Shreedhar and
Varghese, SIGCOMM 1995). No lock here: the waiting room holds its own around every call.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping
from itertools import count

from engine.schedule.sequence import Sequence

QUANTUM = 256  # tokens that a client may start in each round


class FairQueue:
    """One FIFO line for each client. Each round adds QUANTUM to a client's deficit, which its next sequence uses up.

    A sequence counts with its cost when it starts, and with what it generated beyond that when it ends.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Sequence]] = OrderedDict()  # the next client in the round comes first
        self._deficit: dict[str, int] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for line in self._lines.values() for sequence in line)

    def put(self, sequence: Sequence, front: bool = False) -> None:
        """Add a sequence at the end, or the front, of its client's line."""
        line = self._lines.setdefault(sequence.request.client, deque())
        self._deficit.setdefault(sequence.request.client, 0)
        (line.appendleft if front else line.append)(sequence)
        self._length += 1

    def peek(self, held: Mapping[str, int]) -> Sequence:
        """Return the next sequence to start; advances the round until one client's deficit covers its first.

        held: how many slots each client has; only clients with the fewest take part. The queue must not be empty.
        """
        fewest = min(held.get(client, 0) for client in self._lines)
        while True:
            client = next(client for client in self._lines if held.get(client, 0) == fewest)
            first = self._lines[client][0]
            if self._deficit[client] >= first.cost:
                return first
            self._deficit[client] += QUANTUM
            self._lines.move_to_end(client)

    def take(self, held: Mapping[str, int]) -> Sequence:
        """Remove and return the sequence that `peek` returns."""
        sequence = self.peek(held)
        self._deficit[sequence.request.client] -= sequence.cost
        self.remove(sequence)
        return sequence

    def order(self, held: Mapping[str, int]) -> Iterator[Sequence]:
        """Yield the sequences in the order in which `take` returns them if each that starts keeps its slot.

        Changes nothing. O(n log n) by a heap of (slots held, turn, client, index in its line).
        """
        lines = {client: list(line) for client, line in self._lines.items()}
        deficit, turns = dict(self._deficit), count(len(lines))
        heap = [(held.get(client, 0), turn, client, 0) for turn, client in enumerate(lines)]
        heapq.heapify(heap)
        while heap:
            slots, turn, client, at = heapq.heappop(heap)
            first = lines[client][at]
            if deficit[client] < first.cost:
                deficit[client] += QUANTUM
                heapq.heappush(heap, (slots, next(turns), client, at))
                continue
            deficit[client] -= first.cost
            yield first
            if at + 1 < len(lines[client]):
                heapq.heappush(heap, (slots + 1, turn, client, at + 1))

    def charge(self, client: str, tokens: int) -> None:
        """Count tokens that a client's sequence generated beyond its cost; a client without a line has no deficit."""
        if client in self._deficit:
            self._deficit[client] -= tokens

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence, wherever it is in its line."""
        client = sequence.request.client
        self._lines[client].remove(sequence)
        if not self._lines[client]:
            del self._lines[client], self._deficit[client]
        self._length -= 1

    def line(self, client: str) -> Collection[Sequence]:
        """Return a client's sequences, in order."""
        return self._lines.get(client, ())
