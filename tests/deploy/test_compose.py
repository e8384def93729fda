"""compose.yaml, started for real by podman-compose: `python -m pytest -m deploy tests/deploy/test_compose.py`.

No registry is asked: the service's image is built here, and Debian's packages of nginx, Redis, Prometheus and its
companions stand in for their images. Debian has no Grafana, which is left out. Root, podman and netavark are needed.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.podman import BASE, ROOT, Podman
from tests.e2e.gunicorn_process import free_port, until
from tests.test_lint import tool

pytestmark = pytest.mark.deploy

PATIENCE = 240.0
PUBLISHED = {"nginx": (80, 443), "prometheus": (9090,), "alertmanager": (9093,)}
# Debian's nginx keeps its temporary files where the official one has no folder.
STAND_IN = f"""\
FROM {BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends curl nginx-light redis-server prometheus \\
        prometheus-alertmanager prometheus-blackbox-exporter prometheus-redis-exporter \\
    && rm -rf /etc/nginx/sites-enabled/* /var/lib/nginx && ln -s /var/cache/nginx /var/lib/nginx \\
    && mkdir /prometheus /alertmanager && chown nobody /prometheus /alertmanager
"""
PROGRAMS = {
    "nginx": None,
    "redis": None,
    "redis-exporter": "prometheus-redis-exporter",
    "monitoring": None,
    "prometheus": "prometheus",
    "alertmanager": "prometheus-alertmanager",
    "blackbox": "prometheus-blackbox-exporter",
}


class Machine:
    """compose.yaml without Grafana on free ports of loopback, with a certificate of its own."""

    def __init__(self, podman: Podman, folder: Path) -> None:
        self.podman, self.file = podman, folder / "compose.yaml"
        self.ports: dict[int, int] = {}
        whole: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
        whole["name"] = "avito-ai-trial"
        del whole["services"]["grafana"], whole["volumes"]["grafana"]
        for name, inner in PUBLISHED.items():
            self.ports |= {port: free_port() for port in inner}
            whole["services"][name]["ports"] = [f"127.0.0.1:{self.ports[port]}:{port}" for port in inner]
        for service in whole["services"].values():
            service["volumes"] = [mount.replace("./", f"{ROOT}/", 1) for mount in service.get("volumes", [])]
        self.file.write_text(yaml.safe_dump(whole))
        self.images = {name: whole["services"][name]["image"] for name in PROGRAMS}
        self.environ = {**podman.environ, "TLS_DIR": str(folder)}
        words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout privkey.pem -out fullchain.pem"
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True, timeout=600)

    def build_stand_ins(self, folder: Path) -> None:
        """Tag Debian's programs with the names of the images."""
        built = "localhost/stand-in"
        (folder / "Dockerfile").write_text(STAND_IN)
        how = ("--isolation=chroot", "--format", "docker")
        self.podman.out("build", *how, "--tag", built, str(folder), seconds=900)
        for name, program in PROGRAMS.items():
            start = f'ENTRYPOINT ["{program}"]\nUSER nobody\n' if program else ""
            (folder / "Dockerfile").write_text(f"FROM {built}\n{start}")
            self.podman.out("build", *how, "--tag", self.images[name], str(folder), seconds=900)

    def compose(self, *arguments: str) -> None:
        command = [tool("podman-compose"), "--file", str(self.file), *arguments]
        path = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command, env={**self.environ, "PATH": path}, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]

    def get(self, port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        """Return the status of what is published at `port`; 0 without a response."""
        context = ssl._create_unverified_context() if port == 443 else None
        url = f"{'https' if context else 'http'}://127.0.0.1:{self.ports[port]}{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as response:
                return response.status, bytes(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, bytes(error.read())
        except OSError:
            return 0, b""

    def figures(self, query: str) -> list[str]:
        """Return the values that Prometheus has for an expression now."""
        status, body = self.get(9090, f"/api/v1/query?query={query}")
        return [one["value"][1] for one in json.loads(body)["data"]["result"]] if status == 200 else []

    def inside(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        return self.podman.run("exec", f"avito-ai-trial_{service}_1", *command)


@pytest.fixture(scope="module")
def machine(podman: Podman, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Everything up, and the models loaded."""
    started = Machine(podman, tmp_path_factory.mktemp("compose"))
    started.build_stand_ins(tmp_path_factory.mktemp("stand-in"))
    started.compose("up", "--detach", "--no-build")
    until(
        lambda: started.inside("avito-ai", "python", "-m", "deploy.health_check").returncode == 0, PATIENCE, every=1.0
    )
    until(lambda: started.get(443, "/api/health/live")[0] == 200, PATIENCE, every=1.0)
    yield started
    started.compose("down", "--volumes")


def test_the_site_answers_over_tls(machine: Machine) -> None:
    """A client of nginx gets a text of the demo model; plain HTTP is redirected."""
    status, body = machine.get(443, "/api/v1/text/generate", {"prompt": "Привет!", "max_tokens": 20})
    assert (status, json.loads(body)["success"]) == (200, True)


def test_the_site_keeps_the_figures_to_itself(machine: Machine) -> None:
    """The operator's routes are refused from outside."""
    assert machine.get(443, "/metrics")[0] == 403


def test_limits_are_counted_in_redis(machine: Machine) -> None:
    """Only the service reaches Redis."""
    assert machine.get(443, "/api/health")[0] == 200
    assert "LIMITER" in machine.inside("redis", "redis-cli", "keys", "*").stdout


def test_prometheus_scrapes_the_service_and_knows_alertmanager(machine: Machine) -> None:
    """The rendered configuration fits these containers."""
    until(lambda: machine.figures("up{job='avito-ai'}") == ["1"], PATIENCE, every=1.0)
    until(lambda: machine.figures("redis_up") == ["1"], PATIENCE, every=1.0)
    known = json.loads(machine.get(9090, "/api/v1/alertmanagers")[1])["data"]["activeAlertmanagers"]
    assert [one["url"] for one in known] == ["http://alertmanager:9093/api/v2/alerts"]
    assert machine.get(9093, "/-/ready")[0] == 200


@pytest.mark.parametrize("name", ["avito-ai", "nginx", "redis", "prometheus", "alertmanager"])
def test_the_health_checks_hold(machine: Machine, name: str) -> None:
    """The health check of each container succeeds."""
    check = ("healthcheck", "run", f"avito-ai-trial_{name}_1")
    until(lambda: machine.podman.run(*check).returncode == 0, PATIENCE, every=1.0)
