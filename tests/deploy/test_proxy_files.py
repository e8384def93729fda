"""The proxies' configurations: rendering, validity for the programs, and consistency with the service."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from config import SETTINGS
from edge.route_table import MIB, ROUTES, Budget, Need
from tests.deploy.proxies import make_certificate, render
from tests.system_process import ROOT
from tests.system_programs import program

SITE = (ROOT / "deploy/nginx/avito-ai.conf").read_text()
HAPROXY = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
DEFAULTS = {setting.name: setting.default for setting in SETTINGS}


@pytest.fixture
def nginx_takes(tmp_path):
    """Return the result of `nginx -t` for a site, with its log's folder replaced."""

    def check(site):
        (tmp_path / "site.conf").write_text(site.replace("/var/log/nginx/", f"{tmp_path}/"))
        main = tmp_path / "nginx.conf"
        main.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{ include {tmp_path}/site.conf; }}\n")
        command = [program("nginx"), "-t", "-e", f"{tmp_path}/error", "-c", str(main)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)

    return check


@pytest.mark.parametrize("copies", [["8085"], ["8085", "8086", "8087"], ["127.0.0.2:8085", "10.0.0.7:8085"]])
@pytest.mark.needs("nginx", "openssl")
def test_nginx_takes_the_site_without_a_warning(nginx_takes, tmp_path, copies):
    """With one or several copies, local or remote, without a placeholder left."""
    rendered = render("site", "ai.example", *make_certificate(tmp_path), *copies, HTTP_PORT="18080", HTTPS_PORT="18443")
    assert rendered.returncode == 0
    assert not re.search(r"@[A-Z_]+@", rendered.stdout)
    done = nginx_takes(rendered.stdout)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr.replace(warned_about_root(done.stderr), "")


def warned_about_root(said):
    """Return nginx's warning about not running as root, "" without one."""
    return next((line for line in said.splitlines() if '"user" directive makes sense only' in line), "")


@pytest.mark.needs("nginx")
def test_nginx_takes_the_site_that_certbot_needs_first(nginx_takes):
    """Without a certificate, only the challenge is served."""
    rendered = render("challenge", "ai.example", HTTP_PORT="18080")
    assert rendered.returncode == 0
    assert "ssl" not in rendered.stdout
    assert nginx_takes(rendered.stdout).returncode == 0


def test_only_several_copies_are_configured_for_failover():
    """A single copy returns 503 itself, since a hand-over would come back to it."""
    files = ("ai.example", "/c.pem", "/k.pem")
    assert 'another_copy "";' in render("site", *files, "8085").stdout
    assert 'another_copy "yes";' in render("site", *files, "8085", "8086").stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "usage"),
        (["site", "ai.example"], "at least one copy"),
        (["site", "ai example;", "/c", "/k", "1"], "not a domain name"),
        (["site", "ai.example", "c.pem", "/k", "1"], "not an absolute path"),
        (["site", "ai.example", "/c;", "/k", "1"], "not an absolute path"),
        (["site", "ai.example", "/c", "/k", "8085;"], "neither a port"),
        (["page", "ai.example"], "neither 'challenge' nor 'site'"),
    ],
)
def test_arguments_that_would_break_the_site_are_refused(arguments, word):
    """Nothing is printed to stdout."""
    done = render(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert word in done.stderr


@pytest.mark.parametrize(
    ("version", "http2"), [("1.22.1", "ssl http2;"), ("1.24.0", "ssl http2;"), ("1.26.3", "http2 on;")]
)
def test_http2_is_asked_for_as_each_nginx_wants_it(tmp_path, version, http2):
    """Newer versions warn about the old form."""
    fake = tmp_path / "nginx"
    fake.write_text(f"#!/bin/sh\necho 'nginx version: nginx/{version} (Ubuntu)' >&2\n")
    fake.chmod(0o755)
    done = render("site", "ai.example", "/c", "/k", "8085", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert http2 in done.stdout


def test_shellcheck_has_nothing_to_say():
    """The usage of the script."""
    shellcheck = Path(sys.executable).with_name("shellcheck")
    command = [str(shellcheck), str(ROOT / "deploy/nginx/render.sh")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout


@pytest.mark.needs("haproxy", "openssl")
def test_haproxy_takes_its_configuration_without_a_warning(tmp_path):
    """`haproxy -c` prints no warning, given a certificate."""
    make_certificate(tmp_path)
    environ = os.environ | {"CERTIFICATE": str(tmp_path / "both.pem")}
    command = [program("haproxy"), "-c", "-f", str(ROOT / "deploy/haproxy/haproxy.cfg")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr + done.stdout


def test_sizes_are_the_services_own():
    """Each location of nginx accepts the largest body of its routes and no more; HAProxy has one limit for all."""
    places = re.findall(r"location =? ?(/\S*) {\s+(?:client_max_body_size (\d+)m;)?", SITE)
    default = re.search(r"^    client_max_body_size (\d+)m;", SITE, re.MULTILINE)[1]
    own = ("/.well-known", "/avito-ai-failure")
    sizes = {place: int(size or default) * MIB for place, size in places if not place.startswith(own)}
    largest = dict.fromkeys(sizes, 0)
    for route, row in ROUTES.items():
        path = route.partition(" ")[2]
        place = max((place for place in sizes if path == place or path.startswith(place)), key=len)
        largest[place] = max(largest[place], *row.bodies.values(), 0)
    assert sizes == largest
    bound = int(re.search(r"content-length\) gt (\d+)", HAPROXY)[1])
    assert bound == max(largest.values())


@pytest.mark.parametrize(("timeout", "seconds"), [("300", 310), ("600", 610), ("0600", 610), ("1.5", 12), ("2.0", 12)])
def test_nginx_waits_longer_than_a_request_may_take(timeout, seconds):
    """Ten seconds, and for whole seconds, as it counts."""
    done = render("site", "ai.example", "/c", "/k", "8085", REQUEST_TIMEOUT=timeout)
    assert re.findall(r"proxy_read_timeout (.*);", done.stdout) == [f"{seconds}s"]


def test_a_time_that_would_break_the_site_is_refused():
    """Nothing is printed to stdout."""
    for timeout in ("5m", "-1", "1;", " ", "1e3"):
        done = render("site", "ai.example", "/c", "/k", "8085", REQUEST_TIMEOUT=timeout)
        assert (done.returncode, done.stdout) == (1, "")
        assert "is not a number of seconds" in done.stderr


def test_times_leave_the_deadline_to_the_service():
    """The proxies wait longer than REQUEST_TIMEOUT, and at least SEND_TIMEOUT for slow readers."""
    waits = [int(re.search(r"proxy_read_timeout (\d+)s", render("site", "a.b", "/c", "/k", "1").stdout)[1])]
    waits += [int(re.search(rf"{name} (\d+)s", text)[1]) for name, text in TIMES]
    assert all(wait > DEFAULTS["REQUEST_TIMEOUT"] for wait in waits)
    assert int(re.search(r"send_timeout (\d+)s", SITE)[1]) >= DEFAULTS["SEND_TIMEOUT"]


TIMES = [("timeout server", HAPROXY), ("timeout client", HAPROXY)]


def test_everything_that_asks_for_the_operator_is_private_at_the_proxy():
    """No public route is hidden."""
    for text in (SITE, HAPROXY):
        private = re.compile(re.search(r"\^/\((metrics\|.*?)\)\(/\|\$\)", text)[0])
        needs = {Need.LOCAL_OR_ADMIN, Need.OPERATOR}
        for route, row in ROUTES.items():
            path = route.partition(" ")[2]
            hidden = row.need in needs or path == "/metrics" or path.startswith("/status")
            assert bool(private.match(path)) == hidden, route
        assert not any(
            private.match(r.partition(" ")[2]) for r, row in ROUTES.items() if row.budget is Budget.GENERATION
        )
