"""The container that systemd runs by podman's Quadlet: held in as the documents say, and in step with the image."""

from __future__ import annotations

import math
import re
from collections import defaultdict

import pytest

from config import SETTINGS, load_settings
from tests.deploy.podman import HELD_IN, ROOT

FOLDER = ROOT / "deploy/quadlet"
SETTING = {setting.name: setting for setting in SETTINGS}
SPARE_SECONDS = 10


def sections(name: str) -> dict[str, dict[str, list[str]]]:
    """Return the values of each key of each section, as systemd reads them."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[section][key].append(value)
    return found


UNIT, GPU = sections("avito-ai.container"), sections("gpu.conf")
CONTAINER = UNIT["Container"]


def environ(container: dict[str, list[str]]) -> dict[str, str]:
    return dict(word.split("=", 1) for line in container["Environment"] for word in line.split())


def test_it_is_held_in_as_every_container_of_the_image() -> None:
    """The same options as on a command line: a read-only root, no capabilities, no new privileges."""
    keys = {
        "--read-only": "ReadOnly",
        "--tmpfs": "Tmpfs",
        "--cap-drop": "DropCapability",
        "--security-opt": "NoNewPrivileges",
    }
    assert set(keys) == {word for word in HELD_IN if word.startswith("--")}
    assert CONTAINER["ReadOnly"] == CONTAINER["NoNewPrivileges"] == ["true"]
    assert CONTAINER["DropCapability"] == ["all"]
    assert CONTAINER["Tmpfs"][0].startswith("/tmp:")


@pytest.mark.parametrize("container", [CONTAINER, GPU["Container"]], ids=["cpu", "gpu"])
def test_what_it_sets_are_settings_of_the_service(container: dict[str, list[str]]) -> None:
    """They are valid in production, and the port that is published is the one that is listened on."""
    given = environ(container)
    assert set(given) <= set(SETTING)
    load_settings({"ENVIRONMENT": "production", **given}, None)
    assert CONTAINER["PublishPort"] == [f"127.0.0.1:8085:{environ(CONTAINER)['PORT']}"]


@pytest.mark.parametrize("container", [CONTAINER, GPU["Container"]], ids=["cpu", "gpu"])
def test_its_volumes_are_there_and_lie_where_the_image_writes(container: dict[str, list[str]]) -> None:
    """Each names a unit beside it, but for the models, which are mounted read-only."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for volume in container["Volume"]:
        source, target, *how = volume.split(":")
        if source.startswith("/"):
            assert (source, how) == (target, ["ro"])
            assert str(SETTING["VIBE_MODEL_DIR"].default).startswith(f"{target}/")
        else:
            assert sections(source)["Volume"]["VolumeName"] == [source.removesuffix(".volume")]
            assert re.search(rf"install --directory .*{target}( |$)", dockerfile, re.MULTILINE)


def test_a_stop_is_given_the_time_of_the_drain() -> None:
    """podman kills after the drain and the last responses, and systemd after podman."""
    server = load_settings({}, None).server
    (arguments,) = CONTAINER["PodmanArgs"]
    (stop,) = re.findall(r"--stop-timeout=(\d+)", arguments)
    (limit,) = UNIT["Service"]["TimeoutStopSec"]
    assert int(stop) >= math.ceil(server.drain_delay + server.drain_seconds) + 5 + SPARE_SECONDS
    assert int(limit) > int(stop)


def test_a_start_waits_for_ready_models_within_its_time() -> None:
    """As the image's health check does; invalid settings are not tried again."""
    (wait,) = UNIT["Service"]["ExecStartPost"]
    (limit,) = UNIT["Service"]["TimeoutStartSec"]
    (seconds,) = re.findall(r"timeout (\d+) ", wait)
    assert int(seconds) < int(limit)
    assert "python -m deploy.health_check" in wait
    assert '"deploy.health_check"' in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert UNIT["Service"]["RestartPreventExitStatus"] == ["2"]


def test_the_images_are_those_that_the_documents_build() -> None:
    """Under the names that podman gives to images without a registry, and never pulled."""
    document = (ROOT / "docs/containers.md").read_text(encoding="utf-8")
    for container in (CONTAINER, GPU["Container"]):
        (image,) = container["Image"]
        assert f"podman build --format docker --tag {image.removeprefix('localhost/')}" in document
    assert CONTAINER["Pull"] == ["never"]
