"""How a server is reached: over TLS with an authority of one's own, within a time-out, the next one in order, later."""

from __future__ import annotations

import datetime
import ipaddress
import random
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine.errors import NotReady, StartError, UpstreamFailed, UpstreamTimedOut
from tests.fake_upstream import FakeUpstream, fake_upstream
from tests.upstream.conftest import Open, asking
from tests.upstream.test_backend import SAID
from tests.upstream.test_faults import failure_of
from upstream import call

WHEN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
YEARS = datetime.timedelta(days=36500)


def certify(folder: Path, address: str) -> tuple[Path, ssl.SSLContext]:
    """Return the file of a certificate for this address, its own authority, and what a server needs to show it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(WHEN)
        .not_valid_after(WHEN + YEARS)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    shown, hidden = folder / f"{address}.pem", folder / f"{address}.key"
    shown.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    hidden.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, hidden)
    return shown, context


@pytest.mark.parametrize(
    ("named", "trusted", "answers"),
    [("127.0.0.1", True, True), ("127.0.0.1", False, False), ("127.0.0.9", True, False)],
)
def test_a_server_is_known_by_its_certificate(
    opened: Open, tmp_path: Path, named: str, trusted: bool, answers: bool
) -> None:
    """That `ca_file` vouches for, and for the address that is asked; nothing is sent to another one."""
    ca_file, context = certify(tmp_path, named)
    with fake_upstream(tls=context) as server:
        backend = opened(urls=(server.url,), ca_file=ca_file if trusted else None, probe_seconds=60)
        if answers:
            assert backend.submit(asking()).result().text == SAID
        else:
            with pytest.raises(NotReady):
                backend.submit(asking())
        assert (len(server.heard), server.probes > 0) == ((1, True) if answers else (0, False))


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_without_certificates_is_told_at_the_start(opened: Open, tmp_path: Path, content: str | None) -> None:
    """By the name of the upstream and of the setting."""
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    with pytest.raises(StartError, match=r"avibe: ca_file: \S"):
        opened(ca_file=ca_file)


@pytest.fixture
def deaf() -> Iterator[str]:
    """The URL of a server to which no connection comes about: its backlog is full, and nobody accepts."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def test_a_connection_that_does_not_come_about_is_waited_for_a_while(opened: Open, deaf: str) -> None:
    """For `connect_timeout`, and not for the time that an answer may take; at the start, too."""
    backend = opened(connect_timeout=1.5, retries=0)
    backend.fleet.replicas[0].url = deaf
    assert type(failure_of(backend.submit(asking()))) is UpstreamTimedOut
    with pytest.raises(NotReady):
        opened(urls=(deaf,), connect_timeout=0.2, probe_seconds=60).submit(asking())


def test_another_server_answers_in_the_place_of_one_that_is_not_reached(
    server: FakeUpstream, other: FakeUpstream, opened: Open, deaf: str
) -> None:
    """Whichever of them is asked first."""
    backend = opened(urls=(other.url, server.url), connect_timeout=1.5, breaker_failures=100)
    backend.fleet.replicas[0].url = deaf
    number = 0
    while not 0 < backend.reports()[0].requests < number:  # which is asked first goes by the text
        assert backend.submit(asking(f"Hello {number}")).result().text == SAID
        number += 1
        assert number < 50
    assert (len(server.heard), len(other.heard)) == (number, 0)
    assert backend.reports()[0].failures == {"timeout": backend.reports()[0].requests}


def test_further_attempts_go_through_the_servers_in_order(opened: Open) -> None:
    """Of the settings; the first attempt goes by what the request is about, and none is asked twice meanwhile."""
    with ExitStack() as stack:
        servers = [stack.enter_context(fake_upstream()) for _ in range(4)]
        order: list[int] = []
        backend = opened(urls=tuple(one.url for one in servers), retries=3, breaker_failures=100)
        for number, one in enumerate(servers):
            one.script.always = "500"
            one.heard = Noted(order, number)  # type: ignore[assignment]
        firsts = set()
        for number in range(12):
            order.clear()
            assert type(failure_of(backend.submit(asking(f"Hello {number}")))) is UpstreamFailed
            assert sorted(order) == [0, 1, 2, 3]
            assert order[1:] == sorted(order[1:])
            firsts.add(order[0])
        assert len(firsts) > 1


class Noted(list[object]):
    """What a server has heard; each request is noted in an order that several share."""

    def __init__(self, order: list[int], number: int) -> None:
        super().__init__()
        self._order, self._number = order, number

    def append(self, heard: object) -> None:
        self._order.append(self._number)
        super().append(heard)


def test_attempts_at_one_server_are_spread(server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is drawn from none to a bound that doubles, up to a longest one: clients do not return together."""
    bounds: list[tuple[float, float]] = []

    def draw(least: float, most: float) -> float:
        bounds.append((least, most))
        return 0.0

    monkeypatch.setattr(random, "uniform", draw)
    backend = opened(retries=7, breaker_failures=100)
    server.script.always = "500"
    failure_of(backend.submit(asking()))
    expected = [min(call.LONGEST_DELAY, call.FIRST_DELAY * 2**number) for number in range(1, 8)]
    assert bounds == [(0, bound) for bound in expected]
    assert expected[-1] == call.LONGEST_DELAY
