"""What requests to a server leave is free at once; see tests/faults/test_garbage.py for those of our own engine."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from engine.backend import Generation
from engine.errors import ServiceError
from tests.fake_upstream import FakeUpstream
from tests.upstream.conftest import Open, asking
from tests.upstream.test_faults import FAULTS, until
from upstream.backend import UpstreamBackend

OURS = ("engine", "upstream")


@pytest.fixture
def kept() -> Iterator[None]:
    """Nothing is collected meanwhile."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left(backend: UpstreamBackend) -> list[str]:
    """Return the classes of ours that only a collection could free, once all requests have ended."""
    until(lambda: not sum(one.outstanding for one in backend.reports()) and not backend.stats().num_requests_running)
    with suppress(ServiceError):  # behind it, the loop has left the requests before
        backend.submit(asking()).result()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = {f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage}
    gc.garbage.clear()
    return sorted(name for name in found if name.partition(".")[0] in OURS)


def read(generation: Generation) -> None:
    """Read a whole answer, and its error if it has one."""
    with suppress(ServiceError):
        generation.result()


def stream(generation: Generation) -> None:
    """Read a stream, and its error if it has one."""
    with suppress(ServiceError):
        for _ in generation.pieces():
            pass


def leave(generation: Generation) -> None:
    """Leave in the middle of a stream."""
    with suppress(ServiceError):
        next(generation.pieces(idle=0.0))
    generation.abort()


@pytest.mark.parametrize("use", [read, stream, leave])
@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_a_request_leaves_no_garbage(
    server: FakeUpstream, opened: Open, kept: None, fault: str | None, use: Callable[[Generation], None]
) -> None:
    """Answered, repeated, refused or left."""
    backend = opened(retries=1, breaker_failures=100)
    left(backend)
    server.script.faults = [fault] * 2 if fault else []
    use(backend.submit(asking()))
    server.script.faults = []
    found = left(backend)
    assert not found, "\n".join(found)
