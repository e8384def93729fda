"""Compose with PostgreSQL, its exporters and update.sh, for real: a backup, an image that serves, one that does not.

    python -m pytest -m deploy -s tests/deploy/test_compose_postgres.py

As test_compose.py, with Debian's PostgreSQL and exporter in place of their images. The tests run in their order.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.booted_service import copy_tree
from tests.deploy.podman import BASE, IMAGE, ROOT, Podman
from tests.deploy.test_compose import Machine
from tests.e2e.gunicorn_process import until
from tests.test_lint import tool

pytestmark = pytest.mark.deploy

PATIENCE = 600.0
OVERLAY = "deploy/compose/postgres.yaml"
WORD = "a-word-of-the-trial"
# What the official image does with these variables, by Debian's programs of the same names. Its socket lies in /tmp,
# since podman gives a folder of /run to root alone.
ENTRYPOINT = """\
#!/bin/bash
set -e
export PATH=$PATH:$(echo /usr/lib/postgresql/*/bin) PGDATA=/var/lib/postgresql/data
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    initdb --encoding UTF8 --locale C.UTF-8 --username "$POSTGRES_USER" --pwfile "$POSTGRES_PASSWORD_FILE" \\
        --auth-host scram-sha-256 >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -j postgres >/dev/null
fi
exec postgres -c "listen_addresses=*" -c unix_socket_directories=/tmp
"""
STAND_IN = f"""\
FROM {BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql prometheus-postgres-exporter \\
    && ln -s /usr/lib/postgresql/*/bin/pg_isready /usr/lib/postgresql/*/bin/pg_dump /usr/local/bin/ || true
RUN mkdir -p /var/lib/postgresql/data && chown 999 /var/lib/postgresql/data && chmod 700 /var/lib/postgresql/data
COPY entrypoint /usr/local/bin/entrypoint
"""
# podman, but for a registry.
ENGINE = """\
#!/bin/sh
if [ "$1" = pull ]; then exec podman image exists "$3"; fi
exec podman "$@"
"""
STARTS = {
    "postgres": (
        'RUN echo trial:x:999:999::/:/bin/sh >>/etc/passwd\nENV PGHOST=/tmp\nENTRYPOINT ["entrypoint"]\nUSER 999\n'
    ),
    "postgres-exporter": 'ENTRYPOINT ["prometheus-postgres-exporter"]\nUSER nobody\n',
}


class Updated(Machine):
    """The machine of test_compose.py with the overlay, and a copy of the tree from which it is updated."""

    def __init__(self, podman: Podman, folder: Path) -> None:
        super().__init__(podman, folder)
        overlay: dict[str, Any] = yaml.safe_load((ROOT / OVERLAY).read_text(encoding="utf-8"))
        (folder / "postgres").mkdir(mode=0o700)
        for file, word in (("password", WORD), ("url", f"postgresql://avito_ai:{WORD}@postgres:5432/avito_ai")):
            (folder / "postgres" / file).write_text(f"{word}\n")
        for secret in overlay["secrets"].values():
            secret["file"] = str(folder / "postgres" / Path(secret["file"]).name)
        self.overlay = folder / "postgres.yaml"
        self.overlay.write_text(yaml.safe_dump(overlay))
        self.tree = copy_tree(folder / "tree")
        (self.tree / ".env").write_text("LOG_LEVEL=INFO\n")
        self.images |= {name: overlay["services"][name]["image"] for name in STARTS}

    def build_databases(self, folder: Path) -> None:
        """Tag Debian's PostgreSQL and its exporter with the names of their images."""
        built, how = "localhost/stand-in-postgres", ("--isolation=chroot", "--format", "docker")
        (folder / "entrypoint").write_text(ENTRYPOINT)
        (folder / "entrypoint").chmod(0o755)
        (folder / "Dockerfile").write_text(STAND_IN)
        self.podman.out("build", *how, "--tag", built, str(folder), seconds=900)
        for name, start in STARTS.items():
            (folder / "Dockerfile").write_text(f"FROM {built}\n{start}")
            self.podman.out("build", *how, "--tag", self.images[name], str(folder), seconds=900)

    @property
    def words(self) -> list[str]:
        return [tool("podman-compose"), "--file", str(self.file), "--file", str(self.overlay)]

    def compose(self, *arguments: str) -> None:
        done = subprocess.run(
            [*self.words, *arguments], env=self._environ(), capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]

    def update(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run update.sh of the copied tree."""
        engine = self.tree.parent / "engine"
        engine.write_text(ENGINE)
        engine.chmod(0o755)
        environ = self._environ() | {"ENGINE": str(engine), "COMPOSE": " ".join(self.words), "UPDATE_SECONDS": "400"}
        return subprocess.run(
            [str(self.tree / "deploy/compose/update.sh"), *arguments],
            env=environ | {"COMPOSE_PROJECT_NAME": "avito-ai-trial"},
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )

    def _environ(self) -> dict[str, str]:
        path = f"{Path(tool('podman-compose')).parent}{os.pathsep}{os.environ['PATH']}"
        return {**self.environ, "PATH": path}

    def healthy(self) -> bool:
        return self.inside("avito-ai", "python", "-m", "deploy.health_check").returncode == 0

    def keys(self) -> str:
        return self.inside("avito-ai", "python", "-m", "keys", "list").stdout


@pytest.fixture(scope="module")
def machine(podman: Podman, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Updated]:
    """Everything up, and the models loaded."""
    started = Updated(podman, tmp_path_factory.mktemp("compose"))
    started.build_stand_ins(tmp_path_factory.mktemp("stand-in"))
    started.build_databases(tmp_path_factory.mktemp("databases"))
    started.compose("up", "--detach", "--no-build")
    until(started.healthy, PATIENCE, every=1.0)
    until(lambda: started.get(443, "/api/health/live")[0] == 200, PATIENCE, every=1.0)
    yield started
    started.compose("down", "--volumes")


def test_keys_are_in_postgresql(machine: Updated) -> None:
    """A key that is made is a row of it, and no file is written."""
    made = machine.inside("avito-ai", "python", "-m", "keys", "make", "team-a")
    assert made.returncode == 0, made.stderr
    query = ("psql", "--username", "avito_ai", "--tuples-only", "--command")
    found = machine.inside("postgres", *query, "SELECT name FROM api_keys")
    assert "team-a" in found.stdout, found.stderr
    assert machine.inside("avito-ai", "ls", "/var/lib/avito-ai/avito-ai.db").returncode != 0


@pytest.mark.parametrize("service", ["avito-ai", "postgres", "postgres-exporter"])
def test_the_password_is_in_no_environment(machine: Updated, service: str) -> None:
    """Neither in what the engine shows of a container, nor in its process."""
    shown = machine.podman.out("inspect", f"avito-ai-trial_{service}_1")
    assert f"/run/secrets/{'database-url' if service == 'avito-ai' else 'postgres-password'}" in shown
    assert WORD not in shown


@pytest.mark.parametrize("figure", ["up{job='avito-ai'}", "redis_up", "pg_up"])
def test_prometheus_scrapes_the_service_and_the_exporters(machine: Updated, figure: str) -> None:
    """Each of them reaches what it tells about."""
    until(lambda: machine.figures(figure) == ["1"], PATIENCE, every=1.0)


def test_an_update_backs_up_and_serves_the_new_image(machine: Updated, tmp_path: Path) -> None:
    """The dump is PostgreSQL's own and holds the tables; the image before has a name of its own."""
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nLABEL trial=newer\n")
    machine.podman.out("build", "--isolation=chroot", "--format", "docker", "--tag", "localhost/newer", str(tmp_path))
    before = machine.podman.out("image", "inspect", "--format", "{{.Id}}", IMAGE)
    machine.podman.out("tag", "localhost/newer", "localhost/offered")
    done = machine.update("localhost/offered")
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.podman.out("image", "inspect", "--format", "{{.Id}}", "avito-ai:before") == before
    assert machine.healthy()
    assert "team-a" in machine.keys()
    (folder,) = (machine.tree / "backups").iterdir()
    assert (folder / "env").read_text() == "LOG_LEVEL=INFO\n"
    assert (folder / "avito-ai.dump").read_bytes().startswith(b"PGDMP")


def test_an_image_that_does_not_serve_gives_way_to_the_old_one(machine: Updated, tmp_path: Path) -> None:
    """The status is 1, and the one before serves again, with its keys."""
    serving = machine.podman.out("inspect", "--format", "{{.Image}}", "avito-ai-trial_avito-ai_1")
    (tmp_path / "Dockerfile").write_text(f'FROM {IMAGE}\nCMD ["false"]\n')
    machine.podman.out("build", "--isolation=chroot", "--format", "docker", "--tag", "localhost/broken", str(tmp_path))
    done = machine.update("localhost/broken")
    assert done.returncode == 1
    assert "the old one serves again" in done.stderr, done.stderr
    assert machine.podman.out("inspect", "--format", "{{.Image}}", "avito-ai-trial_avito-ai_1") == serving
    assert machine.get(443, "/api/v1/text/generate", {"prompt": "Hi", "max_tokens": 4})[0] == 200
    assert "team-a" in machine.keys()


def test_a_dump_of_a_backup_restores_what_was_lost(machine: Updated) -> None:
    """By the line of docs/containers.md."""
    folder = sorted((machine.tree / "backups").iterdir())[0]
    machine.inside("avito-ai", "python", "-m", "keys", "delete", "team-a")
    assert "team-a" not in machine.keys()
    machine.podman.out("stop", "avito-ai-trial_avito-ai_1")
    command = ["podman", "exec", "--interactive", "avito-ai-trial_postgres_1", "bash", "-c"]
    restore = "$(echo /usr/lib/postgresql/*/bin/pg_restore) --username avito_ai"
    line = f"{restore} --dbname avito_ai --clean --if-exists"
    with (folder / "avito-ai.dump").open("rb") as dump:
        done = subprocess.run(
            [*command, line], env=machine.environ, stdin=dump, capture_output=True, check=False, timeout=600
        )
    assert done.returncode == 0, done.stderr
    machine.podman.out("start", "avito-ai-trial_avito-ai_1")
    until(machine.healthy, PATIENCE, every=1.0)
    assert "team-a" in machine.keys()
