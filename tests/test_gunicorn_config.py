"""Gunicorn's settings from its configuration file, as Gunicorn prints them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gunicorn.config import KNOWN_SETTINGS

from config import SETTINGS

ROOT = Path(__file__).parents[1]
CLEAN = {name: value for name, value in os.environ.items() if name not in {setting.name for setting in SETTINGS}}


def printed(tmp_path, prefix="", **environ):
    """Return the settings that Gunicorn prints, by name; prefix: a shell command to run before."""
    command = f"{prefix}exec {sys.executable} -m gunicorn --print-config -c gunicorn_config.py tests.e2e.tiny_app:app"
    run = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        env=CLEAN | {"TINY_FOLDER": str(tmp_path)} | environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return {
        name.strip(): value.strip() for name, _, value in (line.partition(" = ") for line in run.stdout.splitlines())
    }


def test_settings_reach_gunicorn(tmp_path):
    """Address, threads and drain are the service's settings."""
    found = printed(
        tmp_path, PORT="9000", HOST="127.0.0.1", DRAIN_SECONDS="7.5", DRAIN_DELAY="2.2", LOG_LEVEL="WARNING"
    )
    assert found["bind"] == "['127.0.0.1:9000']"
    assert (found["workers"], found["threads"], found["worker_class"]) == ("1", "496", "serving.worker.ServiceWorker")
    assert found["graceful_timeout"] == "15"
    assert found["loglevel"] == "warning"


def test_ipv6_address_is_written_as_gunicorn_reads_it(tmp_path):
    """An IPv6 address is in brackets before the port."""
    assert printed(tmp_path, HOST="::1")["bind"] == "['[::1]:8085']"


def test_what_is_not_for_this_service_is_off(tmp_path):
    """No control socket, no access log of Gunicorn's, no preloading into the master, no dirty workers."""
    found = printed(tmp_path)
    assert found["control_socket_disable"] == "True"
    assert found["accesslog"] == "None"
    assert found["preload_app"] == "False"
    assert found["dirty_workers"] == "0"
    assert found["forwarder_headers"] == "[]"  # no field of a client says where the application is mounted
    assert found["secure_scheme_headers"] == "{}"  # nor does one have Gunicorn refuse a request


def test_connections_fit_the_descriptors_of_the_process(tmp_path):
    """The soft limit of descriptors is raised to the hard one, and connections stay below it."""
    assert printed(tmp_path, "ulimit -Sn 300; ulimit -Hn 4096; ")["worker_connections"] == str(496 + 1024)
    assert printed(tmp_path, "ulimit -n 1024; ")["worker_connections"] == str(1024 - 256)


def test_only_intended_names_are_taken_as_settings():
    """No imported name is one of Gunicorn's settings, as `config` would be."""
    code = (ROOT / "gunicorn_config.py").read_text()
    names = {setting.name for setting in KNOWN_SETTINGS}
    imported = {line.split(" import ")[1] for line in code.splitlines() if line.startswith("from ")}
    imported |= {line.split()[1] for line in code.splitlines() if line.startswith("import ")}
    assert not names & {name.strip() for line in imported for name in line.split(",")}


@pytest.mark.parametrize("arguments", [[], ["--check-config"]])
@pytest.mark.slow
def test_application_is_named_in_the_file(arguments):
    """`gunicorn -c gunicorn_config.py` needs no application argument."""
    run = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--print-config", *arguments, "-c", "gunicorn_config.py"],
        cwd=ROOT,
        env=CLEAN,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    assert "app_production:app" in run.stdout
