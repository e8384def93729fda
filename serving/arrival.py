"""A request on its way: what has come of it, what was decided about it, and until when it is waited for."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.body_budget import Reservation
from edge.gate import Decision
from serving.framing import Framing, Stage


@dataclass(slots=True, eq=False)
class Arrival:
    """A request on its way. since, until: when its connection began to wait, and when it is given up; began: the time
    of its first byte, None before that.
    """

    since: float
    until: float
    framing: Framing = field(default_factory=Framing)
    began: float | None = None
    decision: Decision | None = None
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
