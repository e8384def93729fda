"""Connections in order, by the address that they come from: each address has its turn, however many it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Addressed(Protocol):
    """A connection, whatever of it there is yet. budget_key: the key of the address that it comes from."""

    @property
    def budget_key(self) -> str: ...


A = TypeVar("A", bound=Addressed)


class ByAddress(Generic[A]):
    """A set of connections, in the order of their turns. Belongs to the polling thread.

    Each method takes constant time, except for `last_of_most`, which looks at all addresses.
    """

    def __init__(self) -> None:
        # By the key of the address, in the order of the next turns. The dictionaries within are ordered sets.
        self._of: dict[str, dict[A, None]] = {}
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def __contains__(self, conn: A) -> bool:
        return conn in self._of.get(conn.budget_key, ())

    @property
    def addresses(self) -> int:
        """How many addresses these connections are of."""
        return len(self._of)

    def number_of(self, address: str) -> int:
        """Return how many of them are of an address, given by its key."""
        return len(self._of.get(address, ()))

    def put(self, conn: A) -> None:
        """Add a connection; one that is there keeps its place."""
        of_its_address = self._of.setdefault(conn.budget_key, {})
        self._number += conn not in of_its_address
        of_its_address[conn] = None

    @property
    def next_address(self) -> str:
        """The address whose turn it is; there is one."""
        return next(iter(self._of))

    def pass_turn(self) -> None:
        """Let the next turn of the address whose turn it is come behind those of the others."""
        address = self.next_address
        self._of[address] = self._of.pop(address)

    def take(self) -> A:
        """Remove and return the first one of the address whose turn it is; there is one."""
        conn = next(iter(self._of[self.next_address]))
        self.pass_turn()
        self.discard(conn)
        return conn

    def __iter__(self) -> Iterator[A]:
        for of_an_address in self._of.values():
            yield from of_an_address

    def discard(self, conn: A) -> None:
        """Remove a connection if it is there."""
        if conn not in self:
            return
        of_its_address = self._of[conn.budget_key]
        del of_its_address[conn]
        self._number -= 1
        if not of_its_address:
            del self._of[conn.budget_key]

    def first_of(self, address: str) -> A | None:
        """Return the first connection of an address, None where there is none."""
        return next(iter(self._of.get(address, ())), None)

    def last_of_most(self) -> A | None:
        """Return the last connection of an address that has most of them, None where there is none."""
        most = max(self._of.values(), key=len, default=None)
        return next(reversed(most)) if most else None
