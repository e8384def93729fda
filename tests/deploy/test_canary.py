"""A canary gets its share of the requests, and then all or none, by its failures and its time to first token."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest

from deploy.canary import FAILURES, Figures, Thresholds, judge, read_text, watch
from edge.errors import ERRORS
from tests.deploy.numbered import Numbered
from tests.deploy.proxies import Nginx
from tests.e2e.gunicorn_process import until
from tests.system_process import ROOT
from tests.system_programs import program

BOUNDS = (0.1, 0.25, 0.5, 1.0, float("inf"))


def figures(requests=100, failed=0, first=0.2):
    """Return what a release did: all first tokens after the same time."""
    statuses = {"success": float(requests - failed), "internal_error": float(failed)}
    return Figures(statuses, {bound: float(requests if first <= bound else 0) for bound in BOUNDS})


@pytest.mark.parametrize(
    ("canary", "word"),
    [
        (figures(), ""),
        (figures(failed=1), ""),
        (figures(failed=2), "2.0% of its requests failed"),
        (figures(requests=49), "too few"),
        (figures(first=0.4), "time to first token"),
        (figures(first=0.05), ""),
        (figures(requests=3, failed=3), "100.0%"),
        (Figures({}, {}), "too few"),
    ],
)
def test_a_canary_must_be_as_good_as_the_rest(canary, word):
    """Failures, too few requests and a slow first token speak against it; being faster does not."""
    reason = judge(figures(requests=900), canary, Thresholds())
    assert (word in reason) if word else reason == ""


def test_failures_of_both_speak_for_neither():
    """What fails everywhere is not the canary's fault."""
    assert judge(figures(requests=900, failed=90), figures(failed=10), Thresholds()) == ""


def test_clients_mistakes_are_no_failures():
    """A refused prompt is an answer as it should be."""
    canary = Figures({"validation_error": 60.0, "success": 40.0, "rate_limit_exceeded": 9.0}, {})
    assert canary.failed == 0


def test_every_failure_of_the_service_is_one():
    """Those of a server elsewhere too; none is called otherwise than the service calls it."""
    assert {meaning.code for meaning in ERRORS.values() if meaning.status >= 500} == FAILURES


def test_counters_are_read_as_increases():
    """What was counted before the watch began does not count; a process that began anew counts from zero."""
    text = Numbered.metrics(type("Fake", (), {"failing": False, "first": 0.2, "count": 7})())
    assert read_text(text).requests == 7
    assert figures(requests=100).since(figures(requests=40)).requests == 60
    assert figures(requests=10).since(figures(requests=40)).requests == 10


def watched(looks, seconds):
    """Return the verdict, and how long it took on a clock that only sleeping moves."""
    now = [0.0]

    def sleep(pause):
        now[0] += pause

    return watch(lambda _: looks(now[0]), seconds, Thresholds(), lambda: now[0], sleep), now[0]


def test_a_canary_is_watched_to_the_end_unless_it_is_hopeless():
    """A good one takes its time; one that fails most requests is withdrawn at the next look."""
    assert watched(lambda now: (figures(), figures()), 60) == ("", 60)
    reason, took = watched(lambda now: (figures(), figures(failed=60)), 60)
    assert "60.0%" in reason
    assert took < 10


def test_a_canary_whose_figures_cannot_be_read_is_withdrawn():
    """One that is down has no figures."""

    def look(now):
        raise OSError("Connection refused")

    assert "cannot be read" in watched(look, 60)[0]


class Site:
    """nginx with the rendered site over a stable copy and a canary, with requests while canary.sh runs."""

    def __init__(self, folder, **canary):
        self.folder, self.stack = folder, ExitStack()
        self.copies = [self.stack.enter_context(Numbered(*args, **more)) for args, more in (((0,), {}), ((1,), canary))]
        self.ports = [copy.port for copy in self.copies]
        self.nginx = self.stack.enter_context(Nginx(folder, self.ports))
        self.done = threading.Event()

    def ask(self):
        """Send one request; the copies count it."""
        self.nginx.ask("/api/v1/text/generate", {"prompt": "Hello"})

    def release(self, share, seconds="2"):
        """Run canary.sh while requests come."""
        site = str(self.folder / "site.conf")
        arguments = [site, *map(str, self.ports), str(share), seconds]
        environ = os.environ | {
            "NGINX": f"{program('nginx')} -c {self.nginx.configuration}",
            "CANARY_REQUESTS": "5",
            "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        }
        command = ["bash", str(ROOT / "deploy/nginx/canary.sh"), *arguments]
        running = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while running.poll() is None:
            self.ask()
        out, err = running.communicate(timeout=60)
        return running.returncode, out + err

    def gives_all_to(self, number):
        """Wait until one copy gets all requests: nginx replaces its workers a moment after it was told to."""
        until(lambda: self._counts_of(9)[number] == 9)

    def _counts_of(self, requests):
        before = [copy.count for copy in self.copies]
        for _ in range(requests):
            self.ask()
        return [copy.count - earlier for copy, earlier in zip(self.copies, before, strict=True)]


@pytest.fixture
def site(tmp_path):
    """Start a site; its canary is as told."""
    started = []

    def start(**canary):
        started.append(Site(tmp_path, **canary))
        return started[-1]

    yield start
    for one in started:
        one.stack.close()


@pytest.mark.needs("nginx", "openssl")
def test_a_good_canary_gets_its_share_and_then_everything(site):
    """A third of the requests first; after the watch all of them, and after `0` none."""
    good = site()
    status, said = good.release(33)
    assert status == 0, said
    ours, theirs = good.copies[1].count, good.copies[0].count
    assert 0.2 < ours / (ours + theirs) < 0.5
    good.gives_all_to(1)
    assert good.release(0)[0] == 0
    good.gives_all_to(0)


@pytest.mark.needs("nginx", "openssl")
def test_a_bad_canary_gets_nothing_any_more(site):
    """It fails; the stable copy gets all requests again, and the exit status tells."""
    bad = site(failing=True)
    status, said = bad.release(50, seconds="60")
    assert status == 1
    assert "is withdrawn" in said
    bad.gives_all_to(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_canary_that_nobody_watches_any_more_is_withdrawn(tmp_path, number):
    """Whoever ends the watch: it would keep its share of the requests for ever."""
    site, watching = tmp_path / "site.conf", tmp_path / "watching"
    site.write_text("".join(f"server 127.0.0.1:{port} max_fails=1 fail_timeout=5s;\n" for port in (1, 2)))
    (tmp_path / "python3").write_text(f"#!/bin/bash\necho x >{watching}\nexec sleep 600\n")
    (tmp_path / "python3").chmod(0o755)
    command = [shutil.which("bash"), str(ROOT / "deploy/nginx/canary.sh"), str(site), "1", "2", "20"]
    environ = os.environ | {"NGINX": "true", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    running = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    until(lambda: watching.exists() and watching.read_text())
    assert "127.0.0.1:2 weight=20" in site.read_text()
    running.send_signal(number)
    _, said = running.communicate(timeout=60)  # which the watch would keep open as long as it ran
    assert (running.returncode, "has all requests again" in said) == (128 + number, True)
    assert "127.0.0.1:2 max_fails=1 fail_timeout=5s down" in site.read_text()


@pytest.mark.parametrize("refused", ["-t", "-s"])
def test_what_nginx_does_not_take_changes_nothing(tmp_path, refused):
    """The site, which the next start of nginx reads, is as it was, with its mode; also where nginx does not run."""
    site, nginx = tmp_path / "site.conf", tmp_path / "nginx"
    site.write_text("".join(f"server 127.0.0.1:{port} max_fails=1 fail_timeout=5s;\n" for port in (1, 2)))
    site.chmod(0o640)
    before = site.read_text()
    nginx.write_text(f'#!/bin/sh\n[ "$1" != {refused} ]\n')
    nginx.chmod(0o755)
    command = [shutil.which("bash"), str(ROOT / "deploy/nginx/canary.sh"), str(site), "1", "2", "20"]
    done = subprocess.run(
        command, env=os.environ | {"NGINX": str(nginx)}, capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, f"{site} is as it was" in done.stderr) == (1, True)
    assert (site.read_text(), site.stat().st_mode & 0o777) == (before, 0o640)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nginx", "site.conf"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "usage"),
        (["SITE", "1", "2", "101"], "from 0 to 100"),
        (["SITE", "1", "2", "5%"], "from 0 to 100"),
        (["SITE", "1", "2", "5", "ten"], "SECONDS"),
        (["SITE", "8085", "8087", "5"], "has no copy 127.0.0.1:8087"),
    ],
)
def test_what_cannot_be_meant_changes_nothing(tmp_path, arguments, word):
    """The site stays as it was."""
    site = tmp_path / "site.conf"
    site.write_text("server 127.0.0.1:8085 max_fails=1 fail_timeout=5s;\n")
    before = site.read_text()
    given = [str(site) if argument == "SITE" else argument for argument in arguments]
    command = [shutil.which("bash"), str(ROOT / "deploy/nginx/canary.sh"), *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, word in done.stderr) == (1, True)
    assert site.read_text() == before
