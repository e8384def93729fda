"""A fake server on a real socket, and a backend that asks it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from config import Upstream
from engine.types import ChatPrompt, GenerationRequest, SamplingParams
from tests.fake_upstream import FakeUpstream, fake_upstream
from upstream.backend import UpstreamBackend
from upstream.loop import UpstreamLoop

Open = Callable[..., UpstreamBackend]


@pytest.fixture
def server() -> Iterator[FakeUpstream]:
    """A server that answers well until it is told otherwise."""
    with fake_upstream() as server:
        yield server


@pytest.fixture
def other() -> Iterator[FakeUpstream]:
    """Another one."""
    with fake_upstream() as server:
        yield server


@pytest.fixture
def opened(server: FakeUpstream) -> Iterator[Open]:
    """Start a backend with these values of an upstream; without probes, and with long time-outs, unless told."""
    backends = []

    def start(capacity: int = 100, clock: Callable[[], float] = time.monotonic, **values: object) -> UpstreamBackend:
        calm = Upstream(
            "avibe", (server.url,), "m", probe_seconds=0, breaker_seconds=60, first_token_timeout=60, idle_timeout=60
        )
        backend = UpstreamBackend(replace(calm, **values), UpstreamLoop(), 4096, capacity, clock)  # type: ignore[arg-type]
        backend.start()
        backends.append(backend)
        return backend

    yield start
    for backend in backends:
        backend.stop(0)


def asking(text: str = "Hello", request_id: str = "r", **values: object) -> GenerationRequest:
    """Return a request for an answer to a text. values: of the request, or of its sampling."""
    prompt = values.pop("prompt", ChatPrompt(({"role": "user", "content": text},)))
    own = {name: values.pop(name) for name in ("client", "timeout", "trace") if name in values}
    sampling = SamplingParams(**({"max_tokens": 50} | values))  # type: ignore[arg-type]
    return GenerationRequest(request_id, prompt, sampling, **own)  # type: ignore[arg-type]
