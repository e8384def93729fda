"""The servers of one upstream, and which of them is asked: least outstanding requests, with a preference by prefix.

A conversation prefers the server that has seen its beginning, whose prefix cache holds it: by rendezvous hashing, so
that a server that comes or goes moves no other conversation. The preference gives way where that server has clearly
more to do than another (Mirrokni, Thorup and Zadimoghaddam, 2016: consistent hashing with bounded loads).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection
from typing import Any

from config import Upstream
from engine.types import GenerationRequest, TextPrompt, TokensPrompt
from upstream.large_body import pieces
from upstream.replica import OPEN, Replica

LOAD_FACTOR, LOAD_SLACK = 1.25, 2  # of the mean outstanding requests, up to which a preference holds
HEAD_CHARACTERS = 1024  # of a plain text


class Fleet:
    """The servers in the order of the settings."""

    def __init__(self, upstream: Upstream, clock: Callable[[], float] = time.monotonic) -> None:
        self.replicas = [
            Replica(upstream.name, number, url, upstream.breaker_failures, upstream.breaker_seconds, clock)
            for number, url in enumerate(upstream.urls)
        ]

    @property
    def usable(self) -> bool:
        """Whether any server may be asked."""
        return any(one.usable for one in self.replicas)

    @property
    def alive(self) -> bool:
        """Whether any server's breaker is not open."""
        return any(one.state != OPEN for one in self.replicas)

    def left_open(self) -> float:
        """Return the seconds until a server may be asked again."""
        return min(one.left_open() for one in self.replicas)

    def choose(self, prefix: bytes, tried: Collection[Replica]) -> Replica | None:
        """Return the server for an attempt, None if there is none. tried: those that have failed for this request.

        The first attempt goes by load and prefix, a further one to the next of the settings.
        """
        usable = [one for one in self.replicas if one.usable and one not in tried]
        if len(usable) < 2 or tried:
            return usable[0] if usable else None
        fewest = min(one.outstanding for one in usable)
        preferred = max(usable, key=lambda one: _weight(prefix, one))
        bound = LOAD_SLACK + LOAD_FACTOR * sum(one.outstanding for one in usable) / len(usable)
        if preferred.outstanding <= bound:
            return preferred
        return next(one for one in usable if one.outstanding == fewest)


def prefix_of(request: GenerationRequest) -> bytes:
    """Return what requests of one conversation have in common: its client, and how it begins."""
    prompt, opening = request.prompt, list[Any]()
    if isinstance(prompt, TextPrompt):
        opening.append(prompt.text[:HEAD_CHARACTERS])
    elif isinstance(prompt, TokensPrompt):
        opening.append(prompt.token_ids[:HEAD_CHARACTERS])
    else:
        for message in prompt.messages:
            opening.append(message["content"])
            if message["role"] == "user":
                break
        opening.append([(one.width, one.height) for one in prompt.images[:1]])
    prefix = hashlib.sha256()
    for piece in pieces([request.client, opening]):
        prefix.update(piece)
    return prefix.digest()


def _weight(prefix: bytes, replica: Replica) -> bytes:
    return hashlib.sha256(prefix + replica.url.encode()).digest()
