"""`python config.py` with a command: what it checks, shows, writes and compares."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from dotenv import dotenv_values

import config
from checks.command import main
from checks.settings_file import write
from config import load_settings

ROOT = Path(__file__).parents[2]
KEY = "0123456789-a-secret"
FILE = "# A comment.\n#TEMPERATURE=0.7\nPORT=8086\nLOG_LEVEL=ERROR\nPORT=8087\n"


@dataclass
class Done:
    """What a command left: its exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def command(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command with the file's settings and the variables that are named, in this process."""
    monkeypatch.setattr(config, "config", load_settings({}, None), raising=False)
    given = {"ENV_FILE": str(file), "STATE_DIR": str(file.parent / "state")}

    def run(*arguments: str, typed: str = "", **environ: str) -> Done:
        with monkeypatch.context() as patch:
            for name, value in (given | environ).items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO(typed))
            status = main(list(arguments), os.environ)
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file of an operator."""
    file = tmp_path / "own.env"
    file.write_text(FILE)
    file.chmod(0o640)
    return file


def as_a_program(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ = kept | {"ENV_FILE": str(file), "STATE_DIR": str(file.parent / "state")}
    program = [sys.executable, str(ROOT / "config.py"), *arguments]
    return subprocess.run(program, env=environ, capture_output=True, text=True, timeout=120)


def test_a_check_tries_what_the_settings_name(command: Command, file: Path) -> None:
    """One line each; status 1 if something has failed, 0 if not, and warnings as at a start."""
    file.write_text("VIBE_MODEL_DIR=demo\nVISION_MODEL_DIR=demo\nDEVICE=cpu\nPROT=1\n")
    done = as_a_program(file, "--check")
    states = dict(line.split()[1::-1] for line in done.stdout.splitlines())
    assert states.pop("disk") in ("ok", "warning")
    assert states == {
        "models": "ok",
        "devices": "off",
        "upstreams": "off",
        "redis": "off",
        "database": "ok",
        "collector": "off",
        "certificate": "off",
        "backup": "off",
    }
    assert done.returncode == 0, done.stdout
    assert "did you mean PORT?" in done.stderr
    assert not (file.parent / "state").exists()
    broken = file.with_name("broken.db")
    broken.write_text("no database " * 1000)
    away = {
        "RATE_LIMIT_STORAGE": "redis://:secret@127.0.0.1:1/0",
        "DATABASE_URL": f"sqlite:///{broken}",
        "DEVICE": "cpu",
    }
    done = command("--check", **away)
    assert (done.returncode, done.stdout.count("failed"), "secret" in done.stdout) == (1, 2, False)


def test_get_shows_what_is_in_force(command: Command, file: Path) -> None:
    """The environment precedes the file; a secret is masked; an unknown name is told with the nearest."""
    assert command("get", "PORT").stdout == "8087\n"
    assert command("get", "PORT", "ADMIN_KEY", PORT="1", ADMIN_KEY=KEY).stdout == "PORT=1\nADMIN_KEY=********\n"
    done = command("get", "TEMPRATURE")
    assert (done.returncode, "did you mean TEMPERATURE?" in done.stderr) == (2, True)


def test_set_writes_to_the_file(command: Command, file: Path) -> None:
    """One line for each, the rest as it was, with the mode it had; a secret may come from standard input."""
    done = command("set", "PORT=9000", "TEMPERATURE=0.2", "ADMIN_KEY", typed=f"{KEY}\n")
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout
    assert file.read_text() == f"# A comment.\nTEMPERATURE=0.2\nLOG_LEVEL=ERROR\nPORT=9000\nADMIN_KEY={KEY}\n"
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "words", [["PORT=99999"], ["PROT=1"], ["MAX_MODEL_LEN=100", "MAX_TOKENS_LIMIT=200"], ["PORT_FILE=x"], []]
)
def test_what_would_be_wrong_is_not_written(command: Command, file: Path, words: list[str]) -> None:
    """The file stays as it was, and nothing lies beside it."""
    done = command("set", *words)
    assert (done.returncode, file.read_text()) == (2, FILE)
    assert done.stderr
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_set_tells_what_has_no_effect(command: Command, file: Path) -> None:
    """The environment takes precedence over the file."""
    done = command("set", "PORT=9000", PORT="1")
    assert (done.returncode, "PORT is set in the environment" in done.stderr) == (0, True)


def test_set_tells_which_half_of_a_secret_precedes(command: Command, file: Path, tmp_path: Path) -> None:
    """Whoever replaces a key that has leaked must not believe in one that is not in force."""
    (tmp_path / "key").write_text(f"old-{KEY}\n")
    pointer = f"ADMIN_KEY_FILE={tmp_path / 'key'}"
    assert not command("set", pointer).stderr
    file_precedes = "ADMIN_KEY_FILE is set too, which takes precedence over ADMIN_KEY\n"
    assert file_precedes in command("set", f"ADMIN_KEY=new-{KEY}").stderr
    assert file_precedes in command("set", f"ADMIN_KEY=new-{KEY}", pointer).stderr
    assert not command("set", f"ADMIN_KEY=new-{KEY}", "ADMIN_KEY_FILE=").stderr
    assert file_precedes in command("set", f"ADMIN_KEY={KEY}", ADMIN_KEY_FILE=str(tmp_path / "key")).stderr
    said = command("set", pointer, ADMIN_KEY=KEY).stderr
    assert "ADMIN_KEY is set in the environment too, which takes precedence over ADMIN_KEY_FILE\n" in said


def test_diff_shows_what_differs(command: Command, file: Path, tmp_path: Path) -> None:
    """From the defaults or from another file; of secrets only that they do."""
    shown = command("diff", ADMIN_KEY=KEY, STATE_DIR="").stdout
    assert "PORT: 8087 (default 8085)" in shown
    assert "ADMIN_KEY: ******** (default not set)" in shown
    assert KEY not in shown
    (tmp_path / "other.env").write_text("PORT=8087\nLOG_LEVEL=INFO\n")
    assert "LOG_LEVEL: ERROR (there INFO)\n" in command("diff", str(tmp_path / "other.env")).stdout
    assert command("diff", str(tmp_path / "none")).returncode == 2


def test_anything_else_gets_the_usage(command: Command, file: Path) -> None:
    """It names the commands."""
    done = command("what")
    assert (done.returncode, "python config.py get NAME" in done.stderr) == (2, True)


@pytest.mark.parametrize("value", ["plain", "a b", "a#b", "it's", 'a "quote"', "a\\b", "$HOME", ""])
def test_a_value_is_read_as_it_was_written(tmp_path: Path, value: str) -> None:
    """Whatever characters it has."""
    file = tmp_path / "new.env"
    write(file, {"OTHER": "1", "JWT_AUDIENCE": value}, lambda changed: None)
    assert dotenv_values(file, interpolate=False) == {"OTHER": "1", "JWT_AUDIENCE": value}
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_link_keeps_its_target(tmp_path: Path, file: Path) -> None:
    """As releases have, which share one file."""
    link = tmp_path / "link.env"
    link.symlink_to(file)
    write(link, {"PORT": "1"}, lambda changed: None)
    assert link.is_symlink()
    assert "PORT=1" in file.read_text()


def test_what_is_no_file_is_not_replaced(command: Command, tmp_path: Path) -> None:
    """A pipe or a device, such as /dev/null, which everything on the machine needs."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = command("set", "PORT=9000", ENV_FILE=str(pipe))
    assert done.returncode == 2
    assert str(pipe) in done.stderr
    assert pipe.is_fifo()
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith("pipe")] == ["pipe"]
