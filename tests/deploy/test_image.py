"""The image, built and run for real by podman: `python -m pytest -m deploy -s tests/deploy/test_image.py`.

Needs root, Debian's podman, runc, buildah and debootstrap, some ten minutes and 6 GB in the folder of temporary files.
"""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine.model.kernels.build import level_of, library_name
from tests.deploy.podman import BASE, HELD_IN, Podman
from tests.e2e.gunicorn_process import free_port, until

pytestmark = pytest.mark.deploy

LOAD_SECONDS = 120.0
STOP_SECONDS = "75"
SCRIPT_OF_WEIGHTS = "find / -xdev ( -name *.safetensors -o -name *.env -o -name .env* ) -not -path /venv/*"


class Service:
    """A container of the image on a free port, hardened as documented."""

    def __init__(self, podman: Podman, image: str) -> None:
        self.podman, self.port = podman, free_port()
        self.name = f"service-{self.port}"
        settings = {"HOST": "127.0.0.1", "PORT": str(self.port), "VIBE_MODEL_DIR": "demo", "VISION_MODEL_DIR": "demo"}
        words = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
        podman.out("run", "--detach", "--name", self.name, "--network", "host", *HELD_IN, *words, image)

    def healthy(self) -> bool:
        """Run the health check of the image."""
        return self.podman.run("healthcheck", "run", self.name).returncode == 0

    def ask(self, path: str, body: dict[str, Any]) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=LOAD_SECONDS) as response:
            return bytes(response.read())

    def inside(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the container."""
        return self.podman.run("exec", self.name, "sh", "-c", line)

    def log(self) -> str:
        return self.podman.out("logs", self.name)

    def state(self, of: str) -> str:
        return self.podman.out("inspect", "--format", f"{{{{.State.{of}}}}}", self.name)


@pytest.fixture(scope="module")
def service(podman: Podman, image: str) -> Iterator[Service]:
    """A container whose models are loaded."""
    running = Service(podman, image)
    until(running.healthy, LOAD_SECONDS, every=1.0)
    yield running
    podman.out("rm", "--force", "--time", "0", running.name)


def test_the_image_says_what_it_is(podman: Podman, image: str) -> None:
    """Labels, user, port, health check and signal are set; the size is printed."""
    (described,) = json.loads(podman.out("inspect", image))
    config = described["Config"]
    assert config["Labels"]["org.opencontainers.image.title"] == "Avito AI API"
    assert config["User"] == "10001:10001"
    assert described["HealthCheck" if "HealthCheck" in described else "Healthcheck"]["Test"][0] == "CMD"
    sizes = {name: json.loads(podman.out("inspect", "--format", "{{.Size}}", name)) for name in (image, BASE)}
    print({name: f"{size / 1e6:.0f} MB" for name, size in sizes.items()})
    assert sizes[image] < 1_600_000_000


def test_no_weights_and_no_secrets_are_inside(podman: Podman, image: str) -> None:
    """The two demo models are the only weights, and there is no settings file."""
    found = podman.out("run", "--rm", "--network", "none", "--user", "0", image, *SCRIPT_OF_WEIGHTS.split())
    assert sorted(found.splitlines()) == [f"/app/demo/{name}/model.safetensors" for name in ("avibe", "avision")]


def test_a_variant_that_there_is_not_is_refused(podman: Podman) -> None:
    """A wrong VARIANT fails the build."""
    done = podman.build("gpu", "localhost/avito-ai:wrong")
    assert done.returncode != 0
    assert "VARIANT=gpu: expected cpu or cuda" in done.stdout + done.stderr


def test_it_answers_a_text_and_an_image(service: Service) -> None:
    """Both demo models serve from the image."""
    text = json.loads(service.ask("/api/v1/text/generate", {"prompt": "Привет!", "max_tokens": 20}))
    assert text["data"]["generated_tokens"] > 0
    picture = base64.b64encode(Path("docs/red-square.png").read_bytes()).decode()
    body = {"image": f"data:image/png;base64,{picture}", "prompt": "What is in the picture?", "max_tokens": 20}
    assert json.loads(service.ask("/api/v1/image/analyze", body))["success"] is True


def test_the_processor_computes_with_the_kernels(service: Service) -> None:
    """They are compiled in the build, and the worker has loaded those of this CPU."""
    assert service.inside("command -v cc || command -v gcc").returncode != 0
    level = level_of()
    assert level is not None
    maps = service.inside("cat /proc/[0-9]*/maps").stdout
    assert f"/app/engine/model/kernels/{library_name(level)}" in maps
    assert "kernels cannot be built" not in service.log()


def test_it_has_no_rights(service: Service) -> None:
    """It has no root, no capabilities, seccomp, and a read-only image."""
    assert service.inside("id -u").stdout.strip() == "10001"
    status = dict(
        line.split(":\t", 1) for line in service.inside("cat /proc/1/status").stdout.splitlines() if ":\t" in line
    )
    assert status["CapBnd"] == "0000000000000000"
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for place in ("/app/x", "/venv/x", "/x", "/var/x"):
        assert service.inside(f"touch {place}").returncode != 0
    assert service.inside("touch /tmp/x").returncode == 0


def test_gunicorn_is_the_first_process(service: Service) -> None:
    """No shell stands between it and the signals of the container engine."""
    assert service.inside("cat /proc/1/cmdline").stdout.replace("\0", " ").startswith("python -m gunicorn ")


def test_the_health_check_does_not_call_a_loading_service_healthy(podman: Podman, image: str) -> None:
    """It fails until both models are ready, then succeeds."""
    starting = Service(podman, image)
    assert not starting.healthy()
    until(starting.healthy, LOAD_SECONDS, every=1.0)
    assert "avision is ready" in starting.log()
    podman.out("rm", "--force", "--time", "0", starting.name)


def test_a_stop_finishes_what_was_admitted(podman: Podman, image: str) -> None:
    """A running stream finishes after the container is stopped, and the exit status is 0."""
    stopping = Service(podman, image)
    until(stopping.healthy, LOAD_SECONDS, every=1.0)
    body = {
        "model": "avibe",
        "messages": [{"role": "user", "content": "Write a listing for: used bicycle"}],
        "max_tokens": 1500,
        "ignore_eos": True,
        "stream": True,
    }
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(stopping.ask, "/v1/chat/completions", body)
        until(lambda: "tokenized" in stopping.log())
        podman.out("stop", "--time", STOP_SECONDS, stopping.name)
        assert answer.result().rstrip().endswith(b"data: [DONE]")
    log = stopping.log()
    assert log.index("Handling signal: term") < log.index("generated: 1500 tokens")
    assert stopping.state("ExitCode") == "0"
    podman.out("rm", stopping.name)
