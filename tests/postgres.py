"""A PostgreSQL of a test's own: a cluster in a new folder, on a free port of loopback, run by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.gunicorn_process import free_port

SERVERS = Path("/usr/lib/postgresql")  # where Debian has each version's programs
# Fast, and as safe against the end of a process as ever; only the end of the machine would do harm.
OPTIONS = "-c fsync=off -c full_page_writes=off -c shared_buffers=32MB -c max_connections=50"


def command(name: str) -> str:
    """Return the path of a program of PostgreSQL's server."""
    versions = sorted(SERVERS.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which(name)
    assert found, f"{name} is not installed; `./deploy.sh test` installs it"
    return found


class Postgres:
    """A running cluster. `url` is that of its database; it can be killed, stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._user = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "-U", "avito", "-A", "trust", "-D", str(folder / "data"), "--no-sync", "-E", "UTF8")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://avito@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} {OPTIONS}"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self, how: str = "fast") -> None:
        """Stop it; `immediate` is as a crash."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", how, "stop")

    def _run(self, name: str, *arguments: str) -> None:
        ids: dict[str, Any] = {}
        if self._user is not None:
            ids = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        nothing = {"stdout": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        subprocess.run([command(name), *arguments], check=True, cwd="/", timeout=600, **nothing, **ids)


@contextmanager
def running() -> Iterator[Postgres]:
    """Yield a cluster, stopped and removed with its block. Its folder has a short path, which its socket needs."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        postgres = Postgres(folder)
        try:
            yield postgres
        finally:
            postgres.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
