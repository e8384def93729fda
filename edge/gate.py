"""What is decided of a request from its head alone, before its body is read and before a thread serves it."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Request

from edge import caller


@dataclass(frozen=True, slots=True)
class Verdict:
    """client: whose budget of bytes the body counts in; refusal: the whole response to a request that is not to be
    read on, None for one that is.
    """

    client: str
    refusal: bytes | None = None


class Gate:
    """Judges heads. trusted_proxies: the setting."""

    def __init__(self, trusted_proxies: int) -> None:
        self._trusted_proxies = trusted_proxies

    @property
    def behind_proxy(self) -> bool:
        """True where a connection's peer is a proxy, and not the client."""
        return self._trusted_proxies > 0

    def judge(self, head: bytes, peer: str) -> Verdict:
        """Return the verdict on a request. head: its request line and fields; peer: the address of its connection."""
        forwarded = _values(head, b"x-forwarded-for") if self.behind_proxy else []
        return Verdict(caller.budget_key(caller.address_of(forwarded, peer, self._trusted_proxies)))


def _values(head: bytes, name: bytes) -> list[str]:
    """Return the values of a field, in order. name: in lower case."""
    found = []
    for line in head.split(b"\r\n")[1:]:
        field, colon, value = line.partition(b":")
        if colon and field.strip().lower() == name:
            found.append(value.strip().decode("latin-1"))
    return found


def body_refused(request: Request) -> bool:
    """True where there was no room in the budget for the request's body, which has not been read."""
    return bool(getattr(request.environ.get("gunicorn.socket"), "body_refused", False))


def release_body(request: Request) -> None:
    """Give the bytes of the request's body back to the budget: nothing of it is kept any longer."""
    release = getattr(request.environ.get("gunicorn.socket"), "release_body", None)
    if release is not None:
        release()
