"""A request on its way: what has come of it, what was decided about it, and until when it is waited for.

And what is known of one that ends there, without a route that answers it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.body_budget import Reservation
from edge.gate import Decision
from serving.framing import Framing, Stage


@dataclass(frozen=True, slots=True)
class Unserved:
    """A request that no route answers.

    head: as far as it has arrived; peer: the address of its connection; arrived: when all of it had, on the monotonic
    clock, 0.0 if it never did; account: whom it is charged to, by its id, "" where that was not decided; key_name: of
    its key or token, "" without one; asked_model: the one that its body names, "" where the gate has not read that.
    """

    head: bytes
    peer: str
    arrived: float = 0.0
    account: str = ""
    key_name: str = ""
    asked_model: str = ""


@dataclass(slots=True, eq=False)
class Arrival:
    """A request on its way. since, until: when its connection began to wait, and when it is given up; began: the time
    of its first byte, None before that; asked_model: as of `Unserved`.
    """

    since: float
    until: float
    framing: Framing = field(default_factory=Framing)
    began: float | None = None
    decision: Decision | None = None
    asked_model: str = ""
    reservation: Reservation | None = None
    answered: bool = False  # or about to be, so that nothing else may be sent
    polled: bool = False  # whether its connection is registered with the poller

    @property
    def has_begun(self) -> bool:
        """Whether a part of a request has come; empty lines behind the one before are none (RFC 9112, 2.2)."""
        return self.began is not None and (
            self.framing.stage is not Stage.HEAD or bool(self.framing.head.strip(b"\r\n"))
        )

    def close(self) -> None:
        """Release what the request holds; it is not served."""
        if self.reservation is not None:
            self.reservation.release()
        self.framing.close()
