"""deploy/backup.sh creates, checks and restores backups of the machine's configuration."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.deploy.production_box import DEPLOY, ProductionBox, running
from tests.e2e.gunicorn_process import until

pytestmark = [pytest.mark.slow, pytest.mark.linux]


def backup(box: ProductionBox, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(box.root / "deploy/backup.sh"), *arguments],
        env=box.environ(**extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def keys(box: ProductionBox) -> ProductionBox:
    """A service with a key in a file, a drop-in of its unit, and a site of nginx."""
    box.tool("rm", f'exec {(box.bin / "rm").resolve()} "$@"')
    etc = box.system / "etc"
    (etc / "avito-ai/admin-key").write_text("0123456789abcdef\n")
    with (etc / "avito-ai/.env").open("a") as file:
        file.write(f"ADMIN_KEY_FILE={etc}/avito-ai/admin-key\nLOG_FILE={box.system}/var/log/avito-ai/service.log\n")
    (etc / "systemd/system/avito-ai.service.d").mkdir()
    (etc / "systemd/system/avito-ai.service.d/own.conf").write_text("[Service]\nMemoryMax=100G\n")
    (etc / "nginx/sites-available").mkdir(parents=True)
    (etc / "nginx/sites-available/avito-ai.conf").write_text("# the site\n")
    return box


def lose(box: ProductionBox) -> None:
    """Delete what the operator wrote."""
    (box.system / "etc/avito-ai/admin-key").unlink()
    (box.system / "etc/avito-ai/.env").write_text("TEMPERATURE=hot\n")
    (box.system / "etc/systemd/system/avito-ai.service.d/own.conf").unlink()


def test_a_backup_comes_back(keys: ProductionBox, tmp_path: Path) -> None:
    """Settings, keys, drop-ins and the site are restored; the files they replace are backed up."""
    file = tmp_path / "copy.tar.gz"
    before = keys.settings
    done = backup(keys, "create", str(file))
    assert done.returncode == 0, done.stderr
    assert "The backup can be restored: 5 files, checksums correct, settings usable." in done.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    lose(keys)
    done = backup(keys, "restore", str(file), "--files-only")
    assert done.returncode == 0, done.stderr
    assert keys.settings == before
    assert (keys.system / "etc/avito-ai/admin-key").read_text() == "0123456789abcdef\n"
    assert (keys.system / "etc/avito-ai/.env").stat().st_mode & 0o777 == 0o640
    assert (keys.system / "etc/systemd/system/avito-ai.service.d/own.conf").exists()
    assert len(list((keys.system / "var/backups/avito-ai").glob("before-restore-*"))) == 1


OLD_PYTHON = """
for option; do
    case "$option" in -P) echo "Unknown option: -P" >&2; exit 2 ;; -c | -m) break ;; esac
done
exec {python} "$@"
"""


@pytest.mark.parametrize("python", ["old", "none"])
def test_a_backup_is_looked_at_on_another_machine(keys: ProductionBox, tmp_path: Path, python: str) -> None:
    """Whose Python is older than ours; and settings come back without any, as the installation brings one."""
    file = str(tmp_path / "copy.tar.gz")
    assert backup(keys, "create", file).returncode == 0
    before = keys.settings
    shutil.rmtree(keys.system / "etc/avito-ai")
    (keys.prefix / "current").unlink()
    keys.tool("python3", OLD_PYTHON.format(python=sys.executable))
    if python == "none":
        (keys.bin / "python3").unlink()
    done = backup(keys, "check", file)
    assert (done.returncode, "are not checked" in done.stderr) == (0, True), done.stderr
    done = backup(keys, "restore", file, "--files-only")
    assert (done.returncode, keys.settings) == (0, before), done.stderr


def test_a_database_is_not_called_damaged_for_want_of_python(keys: ProductionBox, tmp_path: Path) -> None:
    """What is missing is said."""
    with sqlite3.connect(keys.system / "var/lib/avito-ai/avito-ai.db") as database:
        database.execute("CREATE TABLE api_keys (id)")
    file = str(tmp_path / "copy.tar.gz")
    assert backup(keys, "create", file).returncode == 0
    (keys.prefix / "current").unlink()
    (keys.bin / "python3").unlink()
    done = backup(keys, "check", file)
    assert (done.returncode, "python3 is needed" in done.stderr, "damaged" in done.stderr) == (1, True, False)


def test_a_backup_has_a_name_by_its_date(keys: ProductionBox) -> None:
    """Without a name, the backup is in the default folder."""
    assert backup(keys, "create").returncode == 0
    assert len(list((keys.system / "var/backups/avito-ai").glob("2*.tar.gz"))) == 1


def test_a_damaged_backup_is_not_restored(keys: ProductionBox, tmp_path: Path) -> None:
    """A file with a wrong checksum is named, and nothing is written."""
    file, folder = tmp_path / "copy.tar.gz", tmp_path / "unpacked"
    backup(keys, "create", str(file))
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="tar")
    (folder / "etc/nginx/sites-available/avito-ai.conf").write_text("# another\n")
    with tarfile.open(file, "w:gz") as archive:
        archive.add(folder, arcname=".")
    lose(keys)
    done = backup(keys, "restore", str(file))
    assert done.returncode == 1
    assert "sites-available/avito-ai.conf" in done.stderr
    assert "is damaged" in done.stderr
    assert keys.settings == ["TEMPERATURE=hot"]


def test_settings_that_cannot_be_used_are_noticed_while_there_is_time(keys: ProductionBox, tmp_path: Path) -> None:
    """A new backup is checked, with the same messages as at a start."""
    with (keys.system / "etc/avito-ai/.env").open("a") as file:
        file.write("TEMPERATURE=hot\n")
    done = backup(keys, "create", str(tmp_path / "copy.tar.gz"))
    assert done.returncode == 1
    assert "TEMPERATURE='hot'" in done.stderr


def test_a_backup_comes_back_to_a_bare_machine(keys: ProductionBox, tmp_path: Path) -> None:
    """By one command: the user is created, the settings are restored, and the service is installed with them."""
    file = tmp_path / "copy.tar.gz"
    backup(keys, "create", str(file))
    before = keys.settings
    assert keys.run("uninstall", "--purge", "--yes").returncode == 0
    done = backup(keys, "restore", str(file))
    assert done.returncode == 0, done.stderr
    assert "settings of the backup are not checked" in done.stderr
    assert "settings usable" not in done.stdout
    assert keys.settings == before
    assert keys.asked("useradd") == 1
    assert keys.serving == keys.current


@pytest.fixture
def used(keys: ProductionBox) -> ProductionBox:
    """A service with a database that it has open, and a journal."""
    state = keys.system / "var/lib/avito-ai"
    (state / "usage").mkdir(parents=True, exist_ok=True)
    (state / "usage/20260101t000000-0a.0.log").write_text("a line\n")
    (state / "usage/20260101t000000-0a.lock").touch()
    with sqlite3.connect(state / "avito-ai.db") as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE kept (value TEXT)")
        database.execute("INSERT INTO kept VALUES ('of the backup')")
    keys.database = database  # open, so that its last writes are in the log beside it
    return keys


def kept(box: ProductionBox) -> list[str]:
    """Return what the database has."""
    with sqlite3.connect(box.system / "var/lib/avito-ai/avito-ai.db") as database:
        return [value for (value,) in database.execute("SELECT value FROM kept")]


def test_the_database_comes_back(used: ProductionBox, tmp_path: Path) -> None:
    """It is copied whole while it is written, replaced whole, and nothing of the old one is left beside it."""
    file, state = tmp_path / "copy.tar.gz", used.system / "var/lib/avito-ai"
    done = backup(used, "create", str(file))
    assert done.returncode == 0, done.stderr
    assert "8 files" in done.stdout
    with used.database:
        used.database.execute("INSERT INTO kept VALUES ('of later')")
    (state / "usage/20260101t000000-0a.0.log").unlink()
    assert (state / "avito-ai.db-wal").stat().st_size
    done = backup(used, "restore", str(file), "--files-only")
    assert done.returncode == 0, done.stderr
    assert kept(used) == ["of the backup"]
    assert (state / "usage/20260101t000000-0a.0.log").read_text() == "a line\n"
    assert (state / "usage/20260101t000000-0a.lock").exists()
    used.database.close()


def test_a_database_that_is_none_is_no_backup(used: ProductionBox, tmp_path: Path) -> None:
    """A backup that could not bring the database back is not made."""
    used.database.close()
    (used.system / "var/lib/avito-ai/avito-ai.db").write_text("not a database " * 100)
    done = backup(used, "create", str(tmp_path / "copy.tar.gz"))
    assert done.returncode == 1
    assert "database could not be copied" in done.stderr


def test_a_database_elsewhere_is_found_by_the_settings(used: ProductionBox, tmp_path: Path) -> None:
    """STATE_DIR and DATABASE_URL say where it is."""
    place = used.system / "srv/state"
    place.mkdir(parents=True)
    sqlite3.connect(place / "other.db").execute("CREATE TABLE other (value TEXT)").connection.close()
    with (used.system / "etc/avito-ai/.env").open("a") as file:
        file.write(f"DATABASE_URL=sqlite:///{place}/other.db\n")
    archive = tmp_path / "copy.tar.gz"
    assert backup(used, "create", str(archive)).returncode == 0
    with tarfile.open(archive) as files:
        assert "./srv/state/other.db" in files.getnames()


def test_settings_alone_come_back_while_the_service_runs(used: ProductionBox, tmp_path: Path) -> None:
    """Database, journals and the running service stay; options after the file are those of `deploy.sh production`."""
    file, state = tmp_path / "copy.tar.gz", used.system / "var/lib/avito-ai"
    before, release = used.settings, used.current
    backup(used, "create", str(file))
    lose(used)
    with used.database:
        used.database.execute("INSERT INTO kept VALUES ('of later')")
    (state / "usage/20260101t000000-0a.0.log").write_text("two\nlines\n")
    done = backup(used, "restore", str(file), "--settings-only", "TEMPERATURE=0.5")
    assert done.returncode == 0, done.stderr
    assert [line for line in used.settings if not line.startswith("TEMPERATURE")] == before
    assert "TEMPERATURE=0.5" in used.settings
    assert (kept(used), used.asked("systemctl stop")) == (["of the backup", "of later"], 0)
    assert (state / "usage/20260101t000000-0a.0.log").read_text() == "two\nlines\n"
    assert (used.current, used.serving) == (release, release)
    used.database.close()


def before_restore(box: ProductionBox) -> list[Path]:
    return sorted((box.system / "var/backups/avito-ai").glob("before-restore-*"))


@pytest.mark.parametrize(
    "words",
    [
        ("--setting-only",),
        ("--settings_only",),
        ("--settings-only", "--file-only"),
        ("--dry-run",),
        ("TEMPRATURE=0.5",),
        ("--email", "me@example.com"),
        ("--domain",),
        ("--domain", "nowhere"),
        ("settings-only",),
    ],
    ids=" ".join,
)
def test_an_option_that_there_is_not_restores_nothing(used: ProductionBox, tmp_path: Path, words: tuple[str]) -> None:
    """The service runs on, with its database, its settings and without another backup of them."""
    file = tmp_path / "copy.tar.gz"
    backup(used, "create", str(file))
    with used.database:
        used.database.execute("INSERT INTO kept VALUES ('of later')")
    with (used.system / "etc/avito-ai/.env").open("a") as settings:
        settings.write("TEMPERATURE=0.1\n")
    done = backup(used, "restore", str(file), *words)
    assert (done.returncode, "nothing was changed" in done.stderr) == (1, True), done.stderr
    assert (kept(used), "TEMPERATURE=0.1" in used.settings) == (["of the backup", "of later"], True)
    assert (used.asked("systemctl stop"), used.serving, before_restore(used)) == (0, used.current, [])
    used.database.close()


def test_a_certificate_of_the_backup_may_be_an_option(keys: ProductionBox, tmp_path: Path) -> None:
    """On a machine where it is not yet."""
    folder, archive = keys.system / "etc/avito-ai", str(tmp_path / "copy.tar.gz")
    for name in ("cert.pem", "key.pem"):
        (folder / name).write_text("of the site\n")
    assert backup(keys, "create", archive).returncode == 0
    for name in ("cert.pem", "key.pem"):
        (folder / name).unlink()
    words = ("--domain", "ai.example", "--certificate", f"{folder}/cert.pem", "--certificate-key", f"{folder}/key.pem")
    done = backup(keys, "restore", archive, *words, "--files-only")
    assert (done.returncode, (folder / "cert.pem").read_text()) == (0, "of the site\n"), done.stderr


def test_what_is_restored_and_cannot_be_applied_is_said(used: ProductionBox, tmp_path: Path) -> None:
    """That the service is stopped for it, and the command that goes back, which does."""
    file = tmp_path / "copy.tar.gz"
    backup(used, "create", str(file))
    with used.database:
        used.database.execute("INSERT INTO kept VALUES ('of later')")
    used.database.close()
    used.say("check-fails")
    done = backup(used, "restore", str(file), "TEMPERATURE=0.5")
    (before,) = before_restore(used)
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, used.serving, kept(used)) == (1, None, ["of the backup"])
    assert "The backup is restored and not applied. The service is stopped." in last
    assert last.endswith(f"deploy/backup.sh restore {before}")
    used.unsay("check-fails")
    assert backup(used, "restore", str(before)).returncode == 0
    assert (kept(used), used.serving) == (["of the backup", "of later"], used.current)


def test_settings_that_cannot_be_applied_leave_the_service(used: ProductionBox, tmp_path: Path) -> None:
    """It is not called stopped."""
    file = tmp_path / "copy.tar.gz"
    backup(used, "create", str(file))
    lose(used)
    used.say("check-fails")
    done = backup(used, "restore", str(file), "--settings-only", "TEMPERATURE=0.5")
    assert (done.returncode, used.serving, "is stopped" in done.stderr) == (1, used.current, False)
    assert "The backup is restored and not applied. ./deploy.sh status says what runs." in done.stderr
    used.database.close()


def test_files_alone_leave_a_stopped_service_and_say_so(used: ProductionBox, tmp_path: Path) -> None:
    """Nobody is to find out later."""
    used.database.close()
    file = str(tmp_path / "copy.tar.gz")
    assert backup(used, "create", file).returncode == 0
    done = backup(used, "restore", file, "--files-only")
    assert (done.returncode, used.serving) == (0, None)
    assert "Until then it is stopped." in done.stdout.splitlines()[-1]


def test_a_restore_that_cannot_write_says_how_far_it_came(used: ProductionBox, tmp_path: Path) -> None:
    """A disk that is full, for instance."""
    used.database.close()
    file, real = tmp_path / "copy.tar.gz", (used.bin / "tar").resolve()
    assert backup(used, "create", str(file)).returncode == 0
    used.tool("tar", f'case "$*" in "-C {used.system} -xpf -") exit 2 ;; esac; exec "{real}" "$@"')
    done = backup(used, "restore", str(file))
    (before,) = before_restore(used)
    assert (done.returncode, used.serving) == (2, None)
    last = done.stderr.splitlines()[-1]
    assert "The backup is restored in part. The service is stopped. Restore it again" in last
    assert last.endswith(f"deploy/backup.sh restore {before}")


@pytest.mark.parametrize(("state", "starts"), [("active", 1), ("activating", 1), ("inactive", 0), ("failed", 0)])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_restore_that_is_ended_before_its_database_changes_nothing(
    used: ProductionBox, tmp_path: Path, number: signal.Signals, status: int, state: str, starts: int
) -> None:
    """A service that ran, or was about to, runs again; one that was stopped stays so."""
    used.database.close()
    file, waits, python = tmp_path / "copy.tar.gz", used.control / "waits", used.prefix / "current/.venv/bin/python"
    assert backup(used, "create", str(file)).returncode == 0
    before = used.settings
    with (used.system / "etc/avito-ai/.env").open("a") as settings:
        settings.write("TEMPERATURE=0.1\n")
    used.say("state", state)
    wait = f'case "$*" in *" restore "*) echo >"{waits}"; exec sleep 600 ;; esac\n'
    python.write_text(python.read_text().replace("\n", f"\n{wait}", 1))
    script = [*DEPLOY, str(used.root / "deploy/backup.sh"), "restore", str(file)]
    with running(script, env=used.environ(), stderr=subprocess.DEVNULL, start_new_session=True) as process:
        until(waits.exists, 120)
        os.killpg(process.pid, number)
        assert process.wait(120) == status
    assert used.settings == [*before, "TEMPERATURE=0.1"]
    assert used.asked("systemctl start --no-block avito-ai.service") == starts
    assert (used.control / "state").read_text().strip() == ("active" if starts else "inactive")


def test_a_site_that_nginx_does_not_take_leaves_the_one_that_serves(keys: ProductionBox, tmp_path: Path) -> None:
    """Its certificate may be gone, and the next start of nginx would fail."""
    file, site = tmp_path / "copy.tar.gz", keys.system / "etc/nginx/sites-available/avito-ai.conf"
    backup(keys, "create", str(file))
    site.write_text("# of today\n")
    (site.parents[1] / "sites-enabled").mkdir()
    (site.parents[1] / "sites-enabled/avito-ai.conf").symlink_to(site)
    keys.tool("nginx", f'[ "$1" != -t ] || ! grep -q "the site" "{site}"')
    done = backup(keys, "restore", str(file), "--files-only")
    assert (done.returncode, site.read_text()) == (0, "# of today\n")
    assert "nginx does not take its site of the backup" in done.stderr
    keys.tool("nginx", "exit 0")
    assert backup(keys, "restore", str(file), "--files-only").returncode == 0
    assert site.read_text() == "# the site\n"
    assert keys.asked("systemctl reload-or-restart nginx") == 1


def test_a_database_of_any_name_comes_back(used: ProductionBox, tmp_path: Path) -> None:
    """The service is stopped for it, and owns what is restored, also outside of STATE_DIR."""
    place, log = used.system / "srv", tmp_path / "owners"
    place.mkdir()
    used.tool("chown", f'echo "$*" >>"{log}"')
    with (used.system / "etc/avito-ai/.env").open("a") as file:
        file.write(f"DATABASE_URL=sqlite:///{place}/keys.sqlite3\n")
    (used.system / "var/lib/avito-ai/avito-ai.db").unlink()
    sqlite3.connect(place / "keys.sqlite3").execute("CREATE TABLE kept (value TEXT)").connection.close()
    archive = tmp_path / "copy.tar.gz"
    assert backup(used, "create", str(archive)).returncode == 0
    done = backup(used, "restore", str(archive), "--files-only")
    assert done.returncode == 0, done.stderr
    assert "The service is stopped for its database." in done.stdout
    assert f"avito-ai:avito-ai {place}/keys.sqlite3" in log.read_text()


def test_what_comes_back_elsewhere_belongs_to_the_service(used: ProductionBox, tmp_path: Path) -> None:
    """Journals, databases and the folders that are made for them, and no folder that was there."""
    srv, log, archive = used.system / "srv", tmp_path / "owners", tmp_path / "copy.tar.gz"
    state, database, there = srv / "new/state", srv / "db/keys.sqlite3", srv / "there"
    for folder in (state / "usage", database.parent, there):
        folder.mkdir(parents=True)
    (state / "usage/20260101t000000-0a.0.log").write_text("a line\n")
    sqlite3.connect(database).execute("CREATE TABLE kept (value TEXT)").connection.close()
    shutil.copy(database, there / "old.db")
    with (used.system / "etc/avito-ai/.env").open("a") as file:
        file.write(f'STATE_DIR = "{state}"  # mine\nDATABASE_URL=sqlite:///{database}\n')
        file.write(f"ADMIN_KEY_FILE={there}/admin-key\n")
    (there / "admin-key").write_text("0123456789abcdef\n")
    assert backup(used, "create", str(archive)).returncode == 0
    for folder in (srv / "new", srv / "db"):
        shutil.rmtree(folder)
    used.tool("chown", f'echo "$*" >>"{log}"')
    done = backup(used, "restore", str(archive), "--files-only")
    assert done.returncode == 0, done.stderr
    owned = {line.split()[-1] for line in log.read_text().splitlines() if line.startswith("avito-ai:avito-ai ")}
    journal = state / "usage/20260101t000000-0a.0.log"
    assert owned == {str(path) for path in (state.parent, state, state / "usage", journal, database.parent, database)}


def names_in(archive: Path) -> set[str]:
    """Return the files of a backup, as paths below the root."""
    with tarfile.open(archive) as files:
        return {name.removeprefix("./") for name in files.getnames()}


@pytest.mark.parametrize(
    "line",
    [
        'ADMIN_KEY_FILE="{path}"',
        "export ADMIN_KEY_FILE={path}",
        "ADMIN_KEY_FILE = '{path}'  # mine",
        "UPSTREAMS_FILE={etc}/avito-ai/upstreams.toml",
    ],
)
def test_files_that_settings_name_are_kept_however_they_are_written(
    keys: ProductionBox, tmp_path: Path, line: str
) -> None:
    """Anywhere, with a space in the name, behind a link, and in the file of upstreams; and they come back."""
    etc, file, archive = keys.system / "etc", keys.system / "srv/my keys/admin", tmp_path / "copy.tar.gz"
    path = etc / "avito-ai/link" if line.startswith("export") else file
    file.parent.mkdir(parents=True)
    file.write_text("fedcba9876543210\n")
    (etc / "avito-ai/link").symlink_to(file)
    table = f'[[upstream]]\nname = "other"\nurls = ["http://127.0.0.1:9/v1"]\nmodel = "m"\nkey_file = "{file}"\n'
    (etc / "avito-ai/upstreams.toml").write_text(table)
    settings = etc / "avito-ai/.env"
    kept_lines = [one for one in settings.read_text().splitlines() if not one.startswith("ADMIN_KEY_FILE")]
    settings.write_text("\n".join([*kept_lines, line.format(path=path, etc=etc), ""]))
    before = settings.read_text()
    done = backup(keys, "create", str(archive))
    assert done.returncode == 0, done.stderr
    assert "srv/my keys/admin" in names_in(archive)
    file.unlink()
    done = backup(keys, "restore", str(archive), "--files-only")
    assert done.returncode == 0, done.stderr
    assert (file.read_text(), settings.read_text()) == ("fedcba9876543210\n", before)


@pytest.mark.parametrize("name", ["API_KEYS_FILE", "JWT_JWKS_FILE"])
def test_a_file_that_settings_name_and_that_is_gone_fails_the_backup(
    keys: ProductionBox, tmp_path: Path, name: str
) -> None:
    """The service can run on without it for now; a backup without it would only look whole."""
    with (keys.system / "etc/avito-ai/.env").open("a") as file:
        file.write(f"{name}={keys.system}/srv/gone\n")
    done = backup(keys, "create", str(tmp_path / "copy.tar.gz"))
    assert (done.returncode, f"{name}: there is no file {keys.system}/srv/gone." in done.stderr) == (3, True)


def test_directives_of_ones_own_for_nginx_are_kept(keys: ProductionBox, tmp_path: Path) -> None:
    """The site includes them."""
    (keys.system / "etc/nginx/avito-ai.d").mkdir()
    (keys.system / "etc/nginx/avito-ai.d/limit.conf").touch()
    assert backup(keys, "create", str(tmp_path / "copy.tar.gz")).returncode == 0
    assert "etc/nginx/avito-ai.d/limit.conf" in names_in(tmp_path / "copy.tar.gz")


@pytest.mark.parametrize(
    "line",
    [
        "DATABASE_URL=sqlite:///{file}?timeout=30",
        'export DATABASE_URL="sqlite:///file:{file}?mode=rwc&uri=true"',
        "DATABASE_URL = 'sqlite:///{file}' # mine",
    ],
)
def test_a_database_is_found_however_its_address_is_written(used: ProductionBox, tmp_path: Path, line: str) -> None:
    """With options behind it, too."""
    file = used.system / "srv/keys.db"
    file.parent.mkdir()
    sqlite3.connect(file).execute("CREATE TABLE kept (value TEXT)").connection.close()
    with (used.system / "etc/avito-ai/.env").open("a") as settings:
        settings.write(line.format(file=file) + "\n")
    done = backup(used, "create", str(tmp_path / "copy.tar.gz"))
    assert done.returncode == 0, done.stderr
    assert "srv/keys.db" in names_in(tmp_path / "copy.tar.gz")


def test_a_database_that_cannot_be_found_fails_the_backup(keys: ProductionBox, tmp_path: Path) -> None:
    """A path that begins where the service runs is not where this runs."""
    with (keys.system / "etc/avito-ai/.env").open("a") as settings:
        settings.write("DATABASE_URL=sqlite:///keys.db\n")
    done = backup(keys, "create", str(tmp_path / "copy.tar.gz"))
    assert (done.returncode, "expected a whole path" in done.stderr) == (1, True)


@pytest.mark.parametrize("state", ["activating", "reloading", "active"])
def test_a_service_that_loads_does_not_write_into_the_database_that_comes_back(
    used: ProductionBox, tmp_path: Path, state: str
) -> None:
    """It is stopped like one that serves, and no file of the old database is left beside the new one."""
    file, database = tmp_path / "copy.tar.gz", used.system / "var/lib/avito-ai/avito-ai.db"
    backup(used, "create", str(file))
    used.database.close()
    beside = [database.with_name(f"avito-ai.db-{name}") for name in ("wal", "shm", "journal")]
    for one in beside:
        one.write_text("of the old one")
    used.say("state", state)
    assert backup(used, "restore", str(file), "--files-only").returncode == 0
    assert used.asked("systemctl stop avito-ai.service") == 1
    assert not [one for one in beside if one.exists()]
    assert kept(used) == ["of the backup"]


def test_a_restore_waits_for_no_deployment(keys: ProductionBox, tmp_path: Path) -> None:
    """Two that change settings and service at a time would mix them."""
    backup(keys, "create", str(tmp_path / "copy.tar.gz"))
    lose(keys)
    with (keys.system / "run/lock/avito-ai-deploy").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = backup(keys, "restore", str(tmp_path / "copy.tar.gz"))
    assert (done.returncode, "Another deploy.sh is running" in done.stderr) == (1, True)
    assert keys.settings == ["TEMPERATURE=hot"]


@pytest.mark.parametrize("arguments", [(), ("create", "a", "b"), ("restore",), ("what",)])
def test_anything_else_gets_the_usage(keys: ProductionBox, arguments: tuple[str, ...]) -> None:
    """The usage describes the three commands."""
    done = backup(keys, *arguments)
    assert done.returncode == 2
    assert "deploy/backup.sh restore FILE" in done.stderr


def test_what_is_no_backup_is_refused(keys: ProductionBox, tmp_path: Path) -> None:
    """A missing file, one that is not an archive, and an archive of something else."""
    (tmp_path / "text").write_text("no archive")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "text", arcname="text")
    for name, sentence in (("none", "no file"), ("text", "cannot be unpacked"), ("other.tar.gz", "is not a backup")):
        done = backup(keys, "check", str(tmp_path / name))
        assert (done.returncode, sentence in done.stderr) == (1, True)


def test_without_settings_there_is_nothing_to_keep(bare: ProductionBox) -> None:
    """An empty backup would only look like a backup."""
    kept = bare.system / "var/backups/avito-ai"
    before = kept.exists()
    assert "nothing to back up" in backup(bare, "create").stderr
    assert kept.exists() == before


def test_only_root_reads_keys(keys: ProductionBox) -> None:
    """Without root, the message has the right command."""
    keys.tool("id", f"echo {os.getuid() + 1000}")
    assert "sudo deploy/backup.sh create" in backup(keys, "create").stderr
