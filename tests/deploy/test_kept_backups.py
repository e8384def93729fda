"""The backups that are made by themselves: each night and before an update, tested, copied elsewhere, removed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from checks.backup import read_status
from tests.deploy.production_box import DEPLOY, ProductionBox, running
from tests.deploy.test_backup import backup
from tests.e2e.gunicorn_process import until

pytestmark = [pytest.mark.slow, pytest.mark.linux]

DAY = 86_400


def folder(box: ProductionBox) -> Path:
    return box.system / "var/backups/avito-ai"


def noted(box: ProductionBox) -> dict[str, object]:
    """Return what the service reads of the last backup."""
    file = box.system / "var/lib/avito-ai-backup/status.json"
    assert file.stat().st_mode & 0o777 == 0o644
    assert read_status(file) is not None
    return json.loads(file.read_text())


def settings(box: ProductionBox, *lines: str) -> None:
    (box.system / "etc/avito-ai/backup.env").write_text("".join(f"{line}\n" for line in lines))


def old(box: ProductionBox, name: str, days: float) -> Path:
    """Make a file among the backups that is so old."""
    folder(box).mkdir(parents=True, exist_ok=True)
    file = folder(box) / name
    file.write_text("an old one")
    os.utime(file, (time.time() - days * DAY,) * 2)
    return file


@pytest.mark.parametrize("command", ["run", "create"])
def test_a_night_leaves_a_backup_and_a_note(box: ProductionBox, command: str) -> None:
    """It was unpacked and checked, and the note says when it was made, and its size; one by hand counts as well."""
    began = int(time.time())
    done = backup(box, command)
    assert done.returncode == 0, done.stderr
    (file,) = folder(box).glob("2*.tar.gz")
    found = noted(box)
    assert began <= found["created"] == found["tested"] <= time.time()
    assert (found["size"], found["failed"], found["test_failed"]) == (file.stat().st_size, "", "")
    assert "backups    the last one at" in box.run("status").stdout


def test_old_backups_go_and_nothing_else(box: ProductionBox) -> None:
    """Those of before KEEP_DAYS, whatever they were made for; an operator's own files stay."""
    gone = [old(box, f"{name}.tar.gz", 8) for name in ("20200101-000000", "before-update-20200101-000000")]
    kept = [old(box, "20200102-000000.tar.gz", 6), old(box, "my-own.tar.gz", 900)]
    settings(box, "KEEP_DAYS=7")
    assert backup(box, "run").returncode == 0
    assert [file.exists() for file in (*gone, *kept)] == [False, False, True, True]


@pytest.mark.parametrize("days", ["x", "0"])
def test_a_wrong_number_of_days_removes_what_the_default_does(box: ProductionBox, days: str) -> None:
    """It is told, and the backup is made."""
    gone, kept = old(box, "20200101-000000.tar.gz", 31), old(box, "20200102-000000.tar.gz", 29)
    settings(box, f"KEEP_DAYS={days}")
    done = backup(box, "run")
    assert done.returncode == 0
    assert f"KEEP_DAYS={days}" in done.stderr
    assert (gone.exists(), kept.exists()) == (False, True)


def test_a_backup_is_copied_elsewhere(box: ProductionBox) -> None:
    """By the operator's command, with the file as its argument; one that fails is told and noted, the backup stays."""
    elsewhere = box.home / "elsewhere with a space"
    elsewhere.mkdir()
    settings(box, f'COPY_COMMAND=cp "$1" "{elsewhere}/" && echo "copied=$1"')
    assert backup(box, "run").returncode == 0
    assert len(list(elsewhere.iterdir())) == 1
    settings(box, "COPY_COMMAND=echo no route; exit 7")
    began = int(time.time())
    done = backup(box, "run")
    assert (done.returncode, "COPY_COMMAND" in done.stderr) == (1, True)
    assert noted(box)["failed"] == "the copy elsewhere failed"
    assert noted(box)["created"] >= began
    settings(box)
    assert backup(box, "run").returncode == 0
    assert noted(box)["failed"] == ""


def test_a_night_without_a_backup_is_noted(box: ProductionBox) -> None:
    """The time of the last good one stays; the next good one clears it."""
    assert backup(box, "run").returncode == 0
    before = noted(box)
    with (box.system / "etc/avito-ai/.env").open("a") as file:
        file.write("TEMPERATURE=hot\n")
    assert backup(box, "run").returncode == 1
    assert noted(box) == before | {"failed": "no backup was made"}


def unfinished(box: ProductionBox) -> list[str]:
    return sorted(file.name for file in folder(box).glob("*.new"))


@pytest.mark.parametrize("command", ["run", "create", "before-update"])
def test_a_backup_that_does_not_fit_leaves_nothing(box: ProductionBox, command: str) -> None:
    """However often it is tried, its room is free again; a night is noted."""
    assert backup(box, "run").returncode == 0
    before, kept = noted(box), sorted(folder(box).iterdir())
    for number in range(40):
        (box.system / f"etc/avito-ai/key-{number}").write_bytes(os.urandom(50_000))
    script = ["bash", str(box.root / "deploy/backup.sh"), command]

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    for _ in range(2):
        done = subprocess.run(
            script, env=box.environ(), capture_output=True, preexec_fn=little_room, check=False, timeout=120
        )
        assert (done.returncode != 0, sorted(folder(box).iterdir())) == (True, kept), done.stderr
    assert noted(box) == before | ({"failed": "no backup was made"} if command == "run" else {})


def test_a_backup_that_cannot_be_read_again_leaves_nothing(box: ProductionBox) -> None:
    """It has its name only once it was unpacked, and is not taken for the newest that can be restored."""
    real = (box.bin / "tar").resolve()
    box.tool("tar", f'case "$*" in *-xzpf*) exit 2 ;; esac; exec "{real}" "$@"')
    assert backup(box, "run").returncode == 1
    assert list(folder(box).iterdir()) == []


@contextmanager
def amid(box: ProductionBox, tool: str) -> Iterator[subprocess.Popen[bytes]]:
    """Begin what happens each night, and go on where it waits for one of its programs."""
    box.tool(tool, f'echo begun; echo >"{box.control}/waits"; exec sleep 600')
    script = [*DEPLOY, str(box.root / "deploy/backup.sh"), "run"]
    with running(script, env=box.environ(), stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            until(lambda: (box.control / "waits").exists(), 120)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("tool", "failed", "kept"), [("gzip", "no backup was made", 0), ("scp", "the copy elsewhere failed", 1)]
)
def test_a_night_that_is_ended_is_noted_and_leaves_no_half(
    box: ProductionBox, number: signal.Signals, status: int, tool: str, failed: str, kept: int
) -> None:
    """By hand, or by the time that its unit has: that of the backup, or that of its copy."""
    settings(box, 'COPY_COMMAND=scp "$1" elsewhere:')
    with amid(box, tool) as process:
        assert len(unfinished(box)) == 1 - kept
        os.killpg(process.pid, number)
        assert process.wait(120) == status
    assert (unfinished(box), len(list(folder(box).glob("2*.tar.gz")))) == ([], kept)
    assert noted(box)["failed"] == failed


@pytest.mark.parametrize("command", ["run", "create", "before-update"])
def test_what_a_killed_backup_has_left_is_removed_by_the_next(box: ProductionBox, command: str) -> None:
    """At once; an operator's own files stay."""
    left = [old(box, f"{name}.tar.gz.new", 0) for name in ("20200101-000000", "before-update-20200101-000000")]
    own = old(box, "my-own.tar.gz.new", 900)
    assert backup(box, command).returncode == 0
    assert ([file.exists() for file in left], own.exists()) == ([False, False], True)


def test_two_backups_at_a_time_wait_for_each_other(box: ProductionBox) -> None:
    """What one has not finished is not taken for what a killed one has left."""
    real, waits, go, told = (box.bin / "gzip").resolve(), *(box.control / name for name in ("waits", "go", "told"))
    box.tool("gzip", f'echo >>"{waits}"; until [ -e "{go}" ]; do sleep 0.1; done; exec "{real}" "$@"')
    script = [*DEPLOY, str(box.root / "deploy/backup.sh")]
    with told.open("w") as output, running([*script, "run"], env=box.environ(), stdout=subprocess.DEVNULL) as first:
        until(waits.exists, 120)
        with running([*script, "before-update"], env=box.environ(), stdout=output) as second:
            until(lambda: "waits for it" in told.read_text() or len(waits.read_text()) > 1, 120)
            begun = len(unfinished(box))
            go.touch()
            assert (first.wait(120), second.wait(120), begun) == (0, 0, 1)
    assert len(list(folder(box).glob("*.tar.gz"))) == 2


def test_a_backup_by_hand_without_one_of_the_files_is_noted_too(box: ProductionBox) -> None:
    """It counts as one of those that are made by themselves."""
    with (box.system / "etc/avito-ai/.env").open("a") as file:
        file.write("JWT_JWKS_FILE=/not/there\n")
    assert backup(box, "create").returncode == 3
    assert noted(box)["failed"] == "it lacks files that the settings name"


@pytest.mark.parametrize("copy", [True, False])
def test_a_night_without_one_of_the_files_goes_on(box: ProductionBox, tmp_path: Path, copy: bool) -> None:
    """One that another process writes, for instance: the rest is kept, copied, and removed when it is old."""
    elsewhere, gone = tmp_path / "elsewhere", old(box, "20200101-000000.tar.gz", 8)
    elsewhere.mkdir()
    settings(box, f'COPY_COMMAND=cp "$1" "{elsewhere}/"' if copy else "COPY_COMMAND=exit 7", "KEEP_DAYS=7")
    with (box.system / "etc/avito-ai/.env").open("a") as file:
        file.write(f"JWT_JWKS_FILE={box.system}/etc/keys/jwks.json\n")
    began = int(time.time())
    done = backup(box, "run")
    assert (done.returncode, "JWT_JWKS_FILE: there is no file" in done.stderr) == (3 if copy else 1, True)
    assert (gone.exists(), len(list(elsewhere.iterdir()))) == (False, int(copy))
    lacks = "it lacks files that the settings name"
    assert noted(box)["failed"] == (lacks if copy else f"{lacks}; the copy elsewhere failed")
    assert noted(box)["created"] >= began


def test_each_week_the_newest_is_tested(box: ProductionBox) -> None:
    """It is unpacked and checked; one that has been damaged since is noted until a test succeeds."""
    assert backup(box, "test").returncode == 1
    assert noted(box)["test_failed"] == "there is no backup to test"
    assert backup(box, "run").returncode == 0
    old(box, "20200101-000000.tar.gz", 1)
    assert backup(box, "test").returncode == 0
    assert noted(box)["test_failed"] == ""
    newest = sorted(folder(box).glob("2*.tar.gz"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    assert backup(box, "test").returncode == 1
    assert noted(box)["test_failed"] == "the newest backup cannot be restored"
    assert noted(box)["failed"] == ""


def test_a_database_that_nothing_can_dump_is_noted(box: ProductionBox) -> None:
    """The backup is without it, which the operator may confirm."""
    with (box.system / "etc/avito-ai/.env").open("a") as file:
        file.write("DATABASE_URL=postgresql://me@elsewhere/name\n")
    assert backup(box, "run").returncode == 0
    assert "pg_dump" in str(noted(box)["failed"])
    settings(box, "DATABASE=elsewhere")
    assert backup(box, "run").returncode == 0
    assert noted(box)["failed"] == ""


def test_monitoring_comes_back_too(box: ProductionBox, tmp_path: Path) -> None:
    """Its settings, and the files of secrets that they name."""
    etc, file = box.system / "etc", tmp_path / "copy.tar.gz"
    (etc / "smtp-password").write_text("a password\n")
    (etc / "avito-monitoring.env").write_text(f"EMAIL_TO=me@example.com\nSMTP_PASSWORD_FILE={etc}/smtp-password\n")
    assert backup(box, "create", str(file)).returncode == 0
    for name in ("smtp-password", "avito-monitoring.env"):
        (etc / name).unlink()
    assert backup(box, "restore", str(file), "--files-only").returncode == 0
    assert (etc / "smtp-password").read_text() == "a password\n"
    assert "me@example.com" in (etc / "avito-monitoring.env").read_text()


def test_an_update_makes_one_first(box: ProductionBox) -> None:
    """The same release again makes none. Without its backup nothing is switched, unless the operator says so."""
    assert box.run("production").returncode == 0
    assert list(folder(box).glob("before-update-*")) == []
    (box.system / "var/lib/avito-ai/avito-ai.db").write_text("not a database " * 100)
    box.change()
    before = box.current
    done = box.run("production")
    assert (done.returncode, "--no-backup" in done.stderr) == (1, True)
    assert box.current == box.serving == before
    (box.system / "var/lib/avito-ai/avito-ai.db").unlink()
    assert box.run("production").returncode == 0
    assert box.current != before
    assert len(list(folder(box).glob("before-update-*"))) == 1


def test_the_timers_are_installed_and_removed_with_the_service(box: ProductionBox) -> None:
    """Both are enabled by the installation; uninstalling leaves none, and keeps the backups."""
    units = box.system / "etc/systemd/system"
    assert backup(box, "run").returncode == 0
    for name in ("avito-ai-backup", "avito-ai-backup-test"):
        assert (units / f"{name}.timer").exists()
        assert (units / f"{name}.service").exists()
    assert box.run("uninstall", "--purge", "--yes").returncode == 0
    assert list(units.glob("avito-ai*")) == []
    assert len(list(folder(box).glob("2*"))) == 1
