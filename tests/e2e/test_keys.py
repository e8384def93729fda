"""A real Gunicorn that asks for keys: clients' own libraries, keys that change while it runs, and a reload."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from tests.e2e.gunicorn_process import ROOT, GunicornProcess, until

pytestmark = pytest.mark.slow

REFUSED = (401, 429)  # a wrong key, and one too many
HELLO = [{"role": "user", "content": "Hello"}]


class Service:
    """The server, and `python -m keys` with its settings."""

    def __init__(self, server: GunicornProcess, settings: dict[str, str]) -> None:
        self.server, self.settings = server, settings
        self.address = f"http://127.0.0.1:{server.port}"

    def keys(self, *words: str) -> str:
        """Run a command of keys; return what it printed."""
        environ = os.environ | self.settings
        command = [sys.executable, "-m", "keys", *words]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=600)
        return done.stdout.strip()

    def status(self, key: str) -> int:
        """Return what the list of models answers to a key, 0 while nothing answers."""
        try:
            return httpx.get(f"{self.address}/v1/models", headers={"x-api-key": key}).status_code
        except httpx.TransportError:
            return 0


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The application over models that answer at once, with keys in a database and in a file."""
    folder = tmp_path_factory.mktemp("keys")
    settings = {"AUTH": "keys", "STATE_DIR": str(folder / "state"), "API_KEYS_FILE": str(folder / "keys")}
    (folder / "keys").write_text("")
    limits = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}
    with GunicornProcess(folder, app="tests.e2e.answering_app:app", **settings, **limits) as server:
        service = Service(server, settings)
        until(lambda: service.status(""))
        yield service


def known(service, key):
    """Wait until the service knows a key, and return it."""
    until(lambda: service.status(key) == 200)
    return key


def test_the_clients_of_both_protocols_send_their_key_as_ever(service):
    """Each raises its own error for a wrong one."""
    key = known(service, service.keys("make", "clients"))
    with openai.OpenAI(base_url=f"{service.address}/v1", api_key=key, max_retries=0) as client:
        answer = client.chat.completions.create(model="avibe", messages=HELLO)
        assert answer.choices[0].message.content == "An answer."
    with anthropic.Anthropic(base_url=service.address, api_key=key, max_retries=0) as claude:
        assert claude.messages.create(model="avibe", max_tokens=8, messages=HELLO).content[0].text == "An answer."
    wrong = "avito_" + "a" * 12 + "_" + "b" * 43
    with openai.OpenAI(base_url=f"{service.address}/v1", api_key=wrong, max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.chat.completions.create(model="avibe", messages=HELLO)
        assert refused.value.code == "invalid_api_key"
    with anthropic.Anthropic(base_url=service.address, api_key=wrong, max_retries=0) as claude:
        with pytest.raises(anthropic.AuthenticationError):
            claude.messages.create(model="avibe", max_tokens=8, messages=HELLO)


def test_a_key_for_one_model_is_told_so_by_each_client(service):
    """403 is their PermissionDeniedError."""
    key = known(service, service.keys("make", "pictures", "--models", "avision"))
    with openai.OpenAI(base_url=f"{service.address}/v1", api_key=key, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["avision"]
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model="avibe", messages=HELLO)
    with anthropic.Anthropic(base_url=service.address, api_key=key, max_retries=0) as claude:
        with pytest.raises(anthropic.PermissionDeniedError):
            claude.messages.create(model="avibe", max_tokens=8, messages=HELLO)


def test_changes_take_effect_while_it_runs(service):
    """Disabled, enabled, rotated and deleted, each without a restart."""
    key = known(service, service.keys("make", "changing"))
    service.keys("disable", "changing")
    until(lambda: service.status(key) == 401)
    service.keys("enable", "changing")
    until(lambda: service.status(key) == 200)
    other = known(service, service.keys("rotate", "changing", "--grace", "1h"))
    assert service.status(key) == 200
    service.keys("rotate", "changing")
    until(lambda: service.status(key) in REFUSED and service.status(other) in REFUSED)
    service.keys("delete", "changing")
    assert service.server.process.poll() is None


def test_a_changed_file_takes_effect_while_it_runs(service):
    """A new line lets its key in, and its end refuses it."""
    file = Path(service.settings["API_KEYS_FILE"])
    key, line = service.keys("make", "in the file", "--line").splitlines()
    file.write_text(line)
    known(service, key)
    file.write_text("")
    until(lambda: service.status(key) in REFUSED)


@pytest.mark.linux
def test_a_reload_keeps_the_keys(service):
    """SIGUSR2: the new worker asks for keys from its first request on, and knows those that were made before."""
    key = known(service, service.keys("make", "staying"))
    old, wrong, seen = service.server.masters(), "avito_" + "a" * 12 + "_" + "b" * 43, set[int]()

    def taken_over():
        seen.add(service.status(key))
        masters = service.server.masters()
        return len(masters) == 1 and masters != old

    service.server.signal(signal.SIGUSR2)
    until(taken_over, every=0.1)
    assert seen == {200}
    assert service.status(key) == 200
    assert service.status(wrong) in REFUSED
    service.keys("disable", "staying")
    until(lambda: service.status(key) == 401)
