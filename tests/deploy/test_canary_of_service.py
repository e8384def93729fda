"""canary.sh over two real copies of the service, with their own metrics, behind a real nginx, under load."""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest

from deploy.canary import fetch, read_text
from tests.deploy.proxies import Nginx
from tests.e2e.demo_service import SETTINGS, ready
from tests.e2e.gunicorn_process import GunicornProcess, until
from tests.system_process import ROOT
from tests.system_programs import program

pytestmark = [pytest.mark.slow, pytest.mark.needs("nginx", "openssl")]

CHAT = "/v1/chat/completions"
QUESTION = {"model": "avibe", "messages": [{"role": "user", "content": "Привет"}], "max_tokens": 4, "stream": True}
CLIENTS = 3
# Of both copies on one machine, which other tests use, the first token says nothing.
LIMITS = {"CANARY_REQUESTS": "1", "CANARY_FIRST_TOKEN": "1000"}


class Release:
    """A stable copy and a canary, and clients that stream answers through nginx without a pause."""

    def __init__(self, folder):
        self._stack = ExitStack()
        self.copies = [self._start(folder / name) for name in ("stable", "canary")]
        for copy in self.copies:
            until(lambda copy=copy: ready(copy), patience=600)
        self.nginx = self._stack.enter_context(Nginx(folder, [copy.port for copy in self.copies]))
        self.site = folder / "site.conf"
        self.answers = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(CLIENTS)]

    def _start(self, folder):
        folder.mkdir()
        settings = SETTINGS | {"TRUSTED_PROXIES": "1", "CPU_THREADS": "1"}
        return self._stack.enter_context(GunicornProcess(folder, app="tests.faults.faulty_app:app", **settings))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        self._stack.close()

    def _ask_on(self):
        while not self._stop.is_set():
            try:
                response, body = self.nginx.ask(CHAT, QUESTION)
            except Exception as error:
                self.answers.append((repr(error), False))
            else:
                self.answers.append((response.status, body.endswith(b"data: [DONE]\n\n")))

    def try_canary(self, share, seconds):
        """Run canary.sh; return its status and what it said."""
        stable, canary = (str(copy.port) for copy in self.copies)
        command = [
            "bash",
            str(ROOT / "deploy/nginx/canary.sh"),
            str(self.site),
            stable,
            canary,
            str(share),
            str(seconds),
        ]
        environ = (
            os.environ
            | LIMITS
            | {
                "NGINX": f"{program('nginx')} -c {self.nginx.configuration}",
                "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
            }
        )
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=600)
        return done.returncode, done.stdout + done.stderr

    def served(self):
        """Return how many requests each copy says that it has served."""
        return [read_text(fetch(f"http://127.0.0.1:{copy.port}/metrics")).requests for copy in self.copies]

    def only(self, number):
        """Wait until one copy serves all requests."""

        def alone():
            before = self.served()
            wanted = len(self.answers) + 6
            until(lambda: len(self.answers) >= wanted)
            more = [now - earlier for now, earlier in zip(self.served(), before, strict=True)]
            return more[number] and not more[1 - number]

        until(alone)


@pytest.fixture
def release(tmp_path):
    """Two copies under load."""
    with Release(tmp_path) as running:
        yield running


def test_a_good_canary_takes_over_and_nobody_notices(release):
    """Every answer of the whole release is complete: before, with a share, and behind the switch."""
    status, said = release.try_canary(30, 10)
    assert status == 0, said
    release.only(1)
    assert set(release.answers) == {(200, True)}


def test_a_canary_whose_model_fails_is_withdrawn(release):
    """By its own figures; the stable copy serves everything again."""
    release.copies[1].say("fault", "prefill fail\n" * 100_000)
    status, said = release.try_canary(50, 300)
    assert status == 1, said
    assert "is withdrawn" in said
    release.only(0)
    wanted = len(release.answers) + 6
    until(lambda: len(release.answers) >= wanted)
    assert set(release.answers[-6:]) == {(200, True)}
