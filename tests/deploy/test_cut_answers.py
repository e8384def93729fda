"""Programs that ask the service do not fail by an answer that stops half-way; they ask again, or say so."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from deploy import site_check
from deploy.ask import WrongAnswer, request
from deploy.probe import fetch_json
from deploy.site_check import Site

HEAD = "HTTP/1.1 {} Whatever\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


@pytest.fixture(params=[200, 503])
def half(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a server that sends the head and a part of the body and then neither sends nor closes."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(HEAD.format(request.param).encode() + b'{"a":')
                ended.wait(60)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        thread.join(60)


def test_a_poll_of_readiness_goes_on(half: str) -> None:
    """Where a busy machine answers late, the smoke test of a release asks again."""
    with pytest.raises(WrongAnswer, match="did not answer"):
        request(half, timeout=0.2)


def test_a_probe_has_no_answer(half: str) -> None:
    """As where nothing listens."""
    assert fetch_json(half, timeout=0.2) == (0, {})


def test_a_site_has_no_status(half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which its check then names."""
    monkeypatch.setattr(site_check, "PATIENCE", 0.2)
    assert Site(half).ask("/")[0] == 0
