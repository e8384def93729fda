"""The update of what Compose runs: a backup first, then the new image, and the old one again if that does not serve."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.deploy.podman import ROOT
from tests.e2e.gunicorn_process import until

# Images are lines of a file, `tag id`; the running container is of the image whose tag it had when it was started. A
# folder that cannot be written stands for one of root's, to whom alone that is no hindrance.
ENGINE = r"""#!/bin/bash
echo "$*" >>calls
waits_at() { [ "$(cat waits 2>/dev/null)" != "$1" ] || { echo there >waits; sleep 600; }; }
waits_at "$1"
as_root() { chmod -R u+w "${@: -1}" && "$@"; }
id_of() { sed -n "s#^$1 ##p" images | tail -n 1; }
# Runs what a container is started with, as far as Python is concerned: its paths are those of folders of the tree.
within() {
    local folder="$1" words=()
    shift
    until [ "$1" = sh ]; do shift; done
    for word; do
        word="${word//\/backup/$folder}"
        words+=("${word//\/var\/lib\/avito-ai/$PWD/volume}")
    done
    [ ! -e "$folder/settings" ] || sed -i -e "s#/var/lib/avito-ai#$PWD/volume#" -e "s#:////srv/#:///$PWD/srv/#" \
        -e "s#=\(/srv\|/run/secrets\)/#=$PWD\1/#" "$folder/settings"
    mkdir -p outer
    printf '#!/bin/sh\nshift; exec python3 "%s/copied-by" "$@"\n' "$folder" >outer/python
    printf '#!/bin/sh\n' >outer/chown
    chmod +x outer/*
    PATH="$PWD/outer:$PATH" "${words[@]}"
}
case "$1 $2" in
    "ps "*)
        case "$*" in
            *service=avito-ai*) cat running && echo ;;
            *service=nginx*) [ ! -e site ] || echo site ;;
            *service=postgres*) [ ! -e postgres ] || echo postgres ;;
        esac ;;
    "inspect --format")
        case "$3" in
            *Config.Image*) echo avito-ai:cpu ;;
            *Config.Env*) cat environment ;;
            *RestartCount*) [ "$(cat running)" != ends ] && echo 0 || echo 3 ;;
            *) cat running ;;
        esac ;;
    "image inspect") id_of "$5" ;;
    "image tag") echo "$4 $([ -n "$(id_of "$3")" ] && id_of "$3" || echo "$3")" >>images ;;
    "pull "*) [ "$3" != registry/none ] && echo "$3 pulled" >>images ;;
    "run "*)
        for word; do case "$word" in *:/backup | *:/backups) folder="${word%:*}" ;; esac; done
        if [[ "$*" = *" rm -rf /backups/"* ]]; then
            for word; do case "$word" in /backups/*) as_root rm -rf "$folder/${word##*/}" ;; esac; done
        else
            [ ! -e no-copy ] || exit 1
            cat >"$folder/copied-by"
            within "$folder" "$@" || exit
            [[ "$*" = *"chown -R --reference=/backup /backup"* ]] || chmod 500 "$folder/usage"
        fi ;;
    "exec postgres") echo PGDMP ;;
    "exec site") [ "$(cat running)" != no-site ] ;;
    "exec "*) case "$(cat running)" in old | no-site | pulled) ;; *) exit 1 ;; esac ;;
esac
"""
COMPOSE = r"""#!/bin/bash
waits_at() { [ "$(cat waits 2>/dev/null)" != "$1" ] || { echo there >waits; sleep 600; }; }
echo "compose $*" >>calls
case "$1" in
    build) [ "$(cat next)" != unbuilt ] && echo "avito-ai:cpu $(cat next)" >>images && waits_at build ;;
    up)
        if [ -e slow ]; then
            rm slow
            trap 'sleep 2; echo "first up has ended" >>calls; exit 1' TERM
            echo there >waits; sleep 600 & wait
        fi
        echo "Container avito-ai  Recreate" >&2 || exit 1
        if [ ! -e blind ] || [[ "$*" = *--force-recreate* ]]; then
            sed -n "s/^avito-ai:cpu //p" images | tail -n 1 | tr -d "\n" >running
        fi
        [ ! -e unread ] || sleep 0.5
        echo "Container avito-ai  Started" >&2 || exit 1
        waits_at up ;;
    logs) echo "what the service said" ;;
esac
"""

# Modes of files hold for the script as for a member of the group `docker`, whoever runs the tests.
WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the script uses of a tree, with an image that serves, and programs that stand in for docker."""
    (tmp_path / "deploy/compose").mkdir(parents=True)
    shutil.copy(ROOT / "deploy/compose/update.sh", tmp_path / "deploy/compose")
    shutil.copytree(ROOT / "deploy/lib", tmp_path / "deploy/lib")
    shutil.copy(ROOT / "deploy/database_copy.py", tmp_path / "deploy")
    for name, text in (("engine", ENGINE), ("compose", COMPOSE)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".env").write_text("ADMIN_KEY=0123456789abcdef\n")  # pragma: allowlist secret
    (tmp_path / "running").write_text("old")
    (tmp_path / "images").write_text("avito-ai:cpu old\n")
    (tmp_path / "calls").touch()
    (tmp_path / "environment").write_text("PATH=/venv/bin\nSTATE_DIR=/var/lib/avito-ai\n")
    (tmp_path / "volume/usage").mkdir(parents=True)
    (tmp_path / "volume/usage/1.log").touch()
    return tmp_path


def update(
    tree: Path, *arguments: str, new: str = "new", cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    (tree / "next").write_text(new)
    return subprocess.run(
        command(tree, *arguments),
        cwd=cwd,
        env=environment(tree) | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def command(tree: Path, *arguments: str) -> list[str]:
    return [*WITHOUT_PRIVILEGES, "bash", str(tree / "deploy/compose/update.sh"), *arguments]


def environment(tree: Path) -> dict[str, str]:
    programs = {"ENGINE": str(tree / "engine"), "COMPOSE": str(tree / "compose"), "UPDATE_SECONDS": "0", "POLL": "0"}
    return {"PATH": os.environ["PATH"], **programs}


def backups(tree: Path) -> list[Path]:
    folder = tree / "backups"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_an_update_backs_up_and_keeps_the_old_image(tree: Path) -> None:
    """The backup comes before anything else, readable by its owner only."""
    done = update(tree, "registry/new:2")
    assert done.returncode == 0, done.stderr
    assert (tree / "running").read_text() == "pulled"
    assert "avito-ai:before old" in (tree / "images").read_text()
    (backup,) = backups(tree)
    assert (backup / "env").read_text().startswith("ADMIN_KEY=")
    assert (backup / "copied-by").read_text() == (ROOT / "deploy/database_copy.py").read_text()
    assert (backup.stat().st_mode & 0o077, (backup / "env").stat().st_mode & 0o077) == (0, 0)
    calls = (tree / "calls").read_text()
    assert calls.index("run --rm") < calls.index("image tag") < calls.index("pull") < calls.index("compose up")


def database(file: Path) -> None:
    """Make one of SQLite."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as made:
        made.execute("CREATE TABLE kept (value TEXT)")


def said(tree: Path, *lines: str) -> None:
    """Give the service an environment."""
    with (tree / "environment").open("a") as environment:
        environment.writelines(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("line", "file", "copied"),
    [
        ("", "volume/avito-ai.db", "avito-ai.db"),
        ("DATABASE_URL=", "volume/avito-ai.db", "avito-ai.db"),
        (
            "DATABASE_URL=sqlite:////var/lib/avito-ai/of/keys.sqlite3?timeout=9",
            "volume/of/keys.sqlite3",
            "of/keys.sqlite3",
        ),
        ("DATABASE_URL=sqlite:////srv/keys.db", "srv/keys.db", "keys.db"),
        ("DATABASE_URL=sqlite+pysqlite:////srv/keys.db", "srv/keys.db", "keys.db"),
        ("DATABASE_URL_FILE=/run/secrets/url", "srv/keys.db", "keys.db"),
        ("STATE_DIR=/srv/state", "srv/state/avito-ai.db", "avito-ai.db"),
    ],
)
def test_the_database_that_the_service_uses_is_in_the_backup(tree: Path, line: str, file: str, copied: str) -> None:
    """As its container's environment says, and not what has the usual name."""
    (tree / "run/secrets").mkdir(parents=True)
    (tree / "run/secrets/url").write_text(f"sqlite:///{tree}/srv/keys.db\n")
    database(tree / file)
    (tree / file).with_name("usage").mkdir(exist_ok=True)
    (tree / file).with_name("usage").joinpath("1.log").touch()
    said(tree, line)
    done = update(tree, "backup")
    assert done.returncode == 0, done.stderr
    (backup,) = backups(tree)
    assert (backup / copied).read_bytes()[:15] == b"SQLite format 3"
    assert sorted(path.name for path in backup.rglob("*.log")) == ["1.log"]
    assert not (backup / "settings").exists()


HERE = "postgresql://avito_ai:secret@postgres:5432/avito_ai"  # pragma: allowlist secret
AWAY = "postgresql://me:secret@db.example.com/avito_ai"  # pragma: allowlist secret


@pytest.mark.parametrize(
    ("url", "postgres"),
    [
        (AWAY, False),
        (AWAY, True),
        (HERE, False),
        (AWAY.replace("postgresql", "postgres"), True),
        (HERE.replace("5432/avito_ai", "5432/another"), True),
        (HERE.replace("@postgres", "@postgres.example.com"), True),
        (AWAY.replace("postgresql", "mysql"), True),
        (HERE + "?connect_timeout=3&host=db.example.com", True),
        (HERE + "?dbname=another", True),
        ("sqlite:////tmp/keys.db", False),
    ],
)
@pytest.mark.parametrize("by_file", [True, False])
def test_a_database_that_cannot_be_copied_stops_an_update(tree: Path, url: str, postgres: bool, by_file: bool) -> None:
    """It would be missing only when it is needed; the operator may say that it is backed up where it runs."""
    (tree / "run/secrets").mkdir(parents=True)
    (tree / "run/secrets/url").write_text(f"{url}\n")
    said(tree, "DATABASE_URL_FILE=/run/secrets/url" if by_file else f"DATABASE_URL={url}")
    if postgres:
        (tree / "postgres").touch()
    done = update(tree, "registry/new:2")
    assert (done.returncode, (tree / "running").read_text()) == (1, "old")
    assert "DATABASE=elsewhere deploy/compose/update.sh" in done.stderr
    assert "The database could not be copied, and nothing was changed." in done.stderr
    assert [folder.name[:10] for folder in backups(tree)] == ["unfinished"]
    done = update(tree, "registry/new:2", DATABASE="elsewhere")
    assert (done.returncode, (tree / "running").read_text()) == (0, "pulled"), done.stderr
    (backup,) = backups(tree)
    assert (backup / "usage/1.log").exists()
    assert "secret" not in done.stdout + done.stderr + (tree / "calls").read_text()


@pytest.mark.parametrize(
    "url", [HERE, HERE.replace("postgresql", "postgres").replace(":5432", "") + "?connect_timeout=3"]
)
def test_the_postgres_that_runs_here_is_dumped(tree: Path, url: str) -> None:
    """With the journals beside it, and without a word of a database that is missing."""
    (tree / "postgres").touch()
    (tree / "run/secrets").mkdir(parents=True)
    (tree / "run/secrets/url").write_text(f"{url}\n")
    said(tree, "DATABASE_URL_FILE=/run/secrets/url")
    done = update(tree, "backup")
    assert (done.returncode, done.stderr) == (0, "")
    (backup,) = backups(tree)
    assert ((backup / "avito-ai.dump").read_text(), (backup / "usage/1.log").exists()) == ("PGDMP\n", True)


def test_a_file_of_the_url_that_cannot_be_read_stops_an_update(tree: Path) -> None:
    """Which database it is, is not known."""
    said(tree, "DATABASE_URL_FILE=/run/secrets/url")
    done = update(tree, "registry/new:2")
    assert (done.returncode, "The database could not be copied" in done.stderr) == (1, True)
    assert (tree / "running").read_text() == "old"


def test_backups_are_kept_in_the_callers_folder(tree: Path) -> None:
    """A relative path of BACKUPS is one from there; the engine wants a whole one."""
    here = tree / "here"
    here.mkdir()
    assert update(tree, "backup", BACKUPS="mine", cwd=here).returncode == 0
    (backup,) = (here / "mine").iterdir()
    assert f"--volume {here}/mine/" in (tree / "calls").read_text()


def test_an_image_that_compose_does_not_notice_is_started_all_the_same(tree: Path) -> None:
    """The old container is not taken for the new one."""
    (tree / "blind").touch()
    assert update(tree, "registry/new:2").returncode == 0
    assert (tree / "running").read_text() == "pulled"


@pytest.mark.parametrize("bad", ["not-ready", "ends", "no-site"])
def test_an_image_that_does_not_serve_is_taken_back(tree: Path, bad: str) -> None:
    """Not ready in time, ended again and again, or not reached by the site: the old one serves, and that is told."""
    if bad == "no-site":
        (tree / "site").touch()
    done = update(tree, new=bad, **({"UPDATE_SECONDS": "600"} if bad == "ends" else {}))
    assert done.returncode == 1
    assert "the old one serves again" in done.stderr
    assert "what the service said" in done.stderr
    assert (tree / "running").read_text() == "old"


def test_an_old_image_that_serves_no_more_is_said(tree: Path) -> None:
    """The operator is told where to look."""
    (tree / "running").write_text("broken")
    (tree / "images").write_text("avito-ai:cpu broken\n")
    done = update(tree)
    assert done.returncode == 1
    assert "neither did the old one" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "new", "said"),
    [
        ((), "unbuilt", "The image could not be built"),
        (("registry/none",), "new", "registry/none could not be pulled"),
        ((), "no-copy", "The database could not be copied"),
    ],
)
def test_what_fails_before_the_start_changes_nothing(
    tree: Path, arguments: tuple[str, ...], new: str, said: str
) -> None:
    """The running container is not touched."""
    if new == "no-copy":
        (tree / "no-copy").touch()
    done = update(tree, *arguments, new=new)
    assert done.returncode == 1
    assert said in done.stderr
    assert (tree / "running").read_text() == "old"
    assert "compose up" not in (tree / "calls").read_text()


UNCHANGED, BACK = "nothing was changed.", "the old image serves again."
ENDED = [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("number", "status"), ENDED)
@pytest.mark.parametrize(
    ("step", "arguments", "said"),
    [
        ("run", (), UNCHANGED),
        ("pull", ("registry/new:2",), UNCHANGED),
        ("build", (), UNCHANGED),
        ("up", (), BACK),
        ("not-ready", (), BACK),
    ],
)
def test_a_signal_leaves_the_old_image(
    tree: Path, step: str, arguments: tuple[str, ...], said: str, number: signal.Signals, status: int
) -> None:
    """At once, whatever runs: the old one serves and has its name, and the last line says which of both it took."""
    (tree / "waits").write_text(step)
    (tree / "next").write_text("not-ready")
    with subprocess.Popen(
        command(tree, *arguments),
        env=environment(tree) | {"UPDATE_SECONDS": "600", "POLL": "0.1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # also where the tests run in the background
    ) as process:
        reached = tree / ("running" if step == "not-ready" else "waits")
        until(lambda: reached.read_text().strip() in ("there", "not-ready"), 120)
        process.send_signal(number)
        stderr = process.communicate(timeout=120)[1]
    assert process.returncode == status, stderr
    assert stderr.splitlines()[-1] == f"Error: Ended by a signal; {said}"
    assert (tree / "running").read_text() == "old"
    assert named(tree, "avito-ai:cpu") == "old"
    assert ("compose up" in (tree / "calls").read_text()) == (said == BACK)


def ended_amid(tree: Path, *arguments: str) -> str:
    """End an update by TERM once a program of it waits, and return its last line."""
    with subprocess.Popen(
        command(tree, *arguments), env=environment(tree), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: (tree / "waits").exists() and (tree / "waits").read_text() == "there\n", 120)
        process.terminate()
        stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 143
    return stderr.splitlines()[-1]


def test_the_way_back_waits_for_what_a_signal_ends(tree: Path) -> None:
    """Two runs of Compose at once would take each other's container."""
    (tree / "slow").touch()
    (tree / "next").write_text("new")
    assert ended_amid(tree) == f"Error: Ended by a signal; {BACK}"
    calls = (tree / "calls").read_text().splitlines()
    ups = [index for index, call in enumerate(calls) if call.startswith("compose up")]
    assert ups[0] < calls.index("first up has ended") < calls.index("image tag avito-ai:before avito-ai:cpu") < ups[1]


def test_a_signal_leaves_the_name_to_an_image_that_was_not_started_yet(tree: Path) -> None:
    """Nothing was changed: neither what runs, nor what would run next."""
    (tree / "images").write_text("avito-ai:cpu built\n")
    (tree / "waits").write_text("build")
    (tree / "next").write_text("new")
    assert ended_amid(tree) == f"Error: Ended by a signal; {UNCHANGED}"
    assert ((tree / "running").read_text(), named(tree, "avito-ai:cpu")) == ("old", "built")


def test_an_update_goes_back_when_nobody_reads_what_it_says(tree: Path) -> None:
    """A connection without a terminal is lost: no signal comes, and Compose fails when it writes."""
    (tree / "unread").touch()
    (tree / "next").write_text("new")
    with subprocess.Popen(
        command(tree), env=environment(tree), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        until(lambda: "compose up" in (tree / "calls").read_text(), 120)
        process.stdout.close()
        assert process.wait(120) != 0
    assert ((tree / "running").read_text(), named(tree, "avito-ai:cpu")) == ("old", "old")
    assert (tree / "calls").read_text().count("compose up") == 2


def test_an_old_image_that_does_not_come_back_is_said(tree: Path) -> None:
    """The operator is told where to look, after a signal too."""
    (tree / "running").write_text("broken")
    (tree / "images").write_text("avito-ai:cpu broken\n")
    (tree / "waits").write_text("up")
    (tree / "next").write_text("new")
    assert "the old image did not become healthy. See: " in ended_amid(tree)


def named(tree: Path, name: str) -> str:
    """Return the image that has a name."""
    pairs = [line.split() for line in (tree / "images").read_text().splitlines()]
    return [image for tag, image in pairs if tag == name][-1]


def test_a_backup_alone_and_how_many_are_kept(tree: Path) -> None:
    """`backup` updates nothing; the oldest folders beyond KEEP go, and nothing else does."""
    for day in ("20250101-000000", "20250102-000000", "20250103-000000", "mine"):
        (tree / "backups" / day).mkdir(parents=True)
    done = update(tree, "backup", KEEP="2")
    assert done.returncode == 0, done.stderr
    assert [folder.name for folder in backups(tree)][0] == "20250103-000000"
    assert len(backups(tree)) == 3
    assert "compose up" not in (tree / "calls").read_text()


def test_backups_that_fail_take_no_place_of_those_that_are_kept(tree: Path) -> None:
    """However often a timer tries, the whole ones stay, and of the others at most the last is left to be looked at."""
    for day in ("20250101-000000", "20250102-000000"):
        (tree / "backups" / day).mkdir(parents=True)
    (tree / "no-copy").touch()
    for _ in range(2):
        assert update(tree, "backup", KEEP="2").returncode == 1
        assert [folder.name for folder in backups(tree)][:2] == ["20250101-000000", "20250102-000000"]
        assert [folder.name[:10] for folder in backups(tree)][2:] == ["unfinished"]
    (tree / "no-copy").unlink()
    assert update(tree, "backup", KEEP="2").returncode == 0
    assert [folder.name for folder in backups(tree)][0] == "20250102-000000"
    assert len(backups(tree)) == 2


def test_old_backups_go_whoever_updates(tree: Path) -> None:
    """Those with files of root's too, whole or half done; a new one belongs to whoever made it."""
    for name in ("20250101-000000", "20250102-000000", "unfinished-20250103-000000"):
        (tree / "backups" / name / "usage").mkdir(parents=True)
        (tree / "backups" / name / "usage/1.log").touch()
        (tree / "backups" / name / "usage").chmod(0o500)
    done = update(tree, "registry/new:2", KEEP="1")
    assert done.returncode == 0, done.stderr
    (backup,) = backups(tree)
    assert backup.name > "20250103"
    assert (backup / "usage").stat().st_mode & 0o200
    assert (tree / "running").read_text() == "pulled"


def test_without_a_running_service_there_is_nothing_to_update(tree: Path) -> None:
    """It says how to start one."""
    (tree / "running").write_text("")
    done = update(tree)
    assert (done.returncode, backups(tree)) == (1, [])
    assert "does not run here" in done.stderr
