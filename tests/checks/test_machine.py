"""Disks, the devices, the folders of the models, and the certificate of the proxy in front."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from checks.finding import State
from checks.machine import FULL, check_certificate, check_device, check_disk, check_models
from config import Settings, load_settings

SITE = "server {\n    server_name ai.example.com;\n    ssl_certificate /some/where.pem;\n}\n"


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def settings(**environ: str) -> Settings:
    return load_settings(environ, None, lambda: False)


@pytest.mark.parametrize(
    ("used", "free", "state"),
    [(50, 50, State.OK), (89, 11, State.OK), (91, 9, State.WARNING), (100, 0, State.FAILED)],
)
def test_a_disk_fills_up(monkeypatch: pytest.MonkeyPatch, used: int, free: int, state: State) -> None:
    """Over 90% is a warning; less than a quarter of a gigabyte is a failure."""
    usage = Usage(100 * 10 * FULL, used * 10 * FULL, free * 10 * FULL)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert check_disk(settings()).state is state


def test_a_folder_that_is_not_made_yet_is_on_the_disk_of_its_parent(tmp_path: Path) -> None:
    """A first start makes it."""
    assert str(tmp_path) in check_disk(settings(STATE_DIR=str(tmp_path / "not/yet"))).detail


@pytest.mark.parametrize(("total", "shown"), [(8 << 20, "8 MiB"), ((1 << 30) - 1, "1024 MiB"), (1 << 30, "1.0 GiB")])
def test_a_small_disk_does_not_show_as_empty(monkeypatch: pytest.MonkeyPatch, total: int, shown: str) -> None:
    """Its free space and its size each have a unit of their own."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(total, 0, 3 << 20))
    assert f"/ has 3 MiB free of {shown}" in check_disk(settings()).detail


def test_models_are_looked_for(tmp_path: Path) -> None:
    """The demos are there; a folder without a checkpoint has failed, by name."""
    assert check_models(settings(VIBE_MODEL_DIR="demo", VISION_MODEL_DIR="demo")).state is State.OK
    demo = settings(VIBE_MODEL_DIR="demo", VISION_MODEL_DIR="demo", ENVIRONMENT="production", HOST="127.0.0.1")
    assert check_models(demo).state is State.WARNING
    found = check_models(settings(VIBE_MODEL_DIR=str(tmp_path), VISION_MODEL_DIR="demo"))
    assert (found.state, str(tmp_path) in found.detail) == (State.FAILED, True)


@pytest.mark.parametrize("config", [None, "{", '{"architectures": ["Other"]}'])
def test_a_version_that_a_start_would_leave_out_is_told(tmp_path: Path, config: str | None) -> None:
    """As a warning, since the others would answer; the first one is the model itself."""
    folder = tmp_path / "v2"
    if config is not None:
        folder.mkdir()
        (folder / "config.json").write_text(config)
    found = check_models(settings(VIBE_MODELS=f"v1=demo,v2={folder}", VISION_MODEL_DIR="demo"))
    assert found.state is State.WARNING
    assert "A start would leave avibe@v2 out: " in found.detail
    assert str(folder) in found.detail
    if config is not None:  # the demo stands in for a folder that is not there
        found = check_models(settings(VIBE_MODELS=f"v1={folder},v2=demo", VISION_MODEL_DIR="demo"))
        assert (found.state, str(folder) in found.detail) == (State.FAILED, True)
    found = check_models(settings(VIBE_MODELS="v1=demo,v2=demo", VISION_MODEL_DIR="demo"))
    assert (found.state, "avibe@v2 in " in found.detail) == (State.OK, True)


def test_the_processor_is_no_gpu() -> None:
    """It is off, not broken."""
    assert check_device(settings(DEVICE="cpu"), None).state is State.OFF


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The site that deploy.sh writes for nginx."""
    file = tmp_path / "avito-ai.conf"
    file.write_text(SITE)
    return file


@contextmanager
def tls_server(folder: Path, days: float) -> Iterator[int]:
    """Show a certificate that ends in so many days; yield the port."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ai.example.com")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(30)).not_valid_after(now + timedelta(days))
    made = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "both.pem").write_bytes(made + key.private_bytes(*plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection = listener.accept()[0]
            context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(20)


@pytest.mark.parametrize(("days", "state"), [(60.0, State.OK), (13.0, State.WARNING), (-1.0, State.FAILED)])
def test_a_certificate_ends(tmp_path: Path, site: Path, days: float, state: State) -> None:
    """Two weeks before is a warning; one that has ended is a failure, and is read all the same."""
    with tls_server(tmp_path, days) as port:
        assert check_certificate(site, port).state is state


def test_without_a_site_there_is_no_certificate(tmp_path: Path, site: Path) -> None:
    """No site, and one without TLS, are off; one that nothing serves has failed."""
    assert check_certificate(tmp_path / "none").state is State.OFF
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert check_certificate(site, port).state is State.FAILED
    site.write_text(SITE.replace("ssl_certificate", "# ssl_certificate"))
    assert check_certificate(site).state is State.OFF
