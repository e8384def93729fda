"""`python -m keys`: what an operator types, sees, and finds in the database afterwards."""

import io
import json
import os
import pwd
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config import load_settings
from database.audit import acts
from keys.__main__ import COUNTS_AFTER, main, name_of_user
from keys.account import Limits
from keys.refresh import REFRESH_SECONDS
from keys.secret import digest, id_of

ROOT = Path(__file__).parents[2]
DAY = 86_400


@pytest.fixture
def settings(tmp_path):
    """Those of a service with keys, whose database is that of `database`."""
    return load_settings({"AUTH": "keys", "STATE_DIR": str(tmp_path)}, None)


@pytest.fixture
def run(settings, capsys, monkeypatch):
    """Run a command; return its exit status and what it printed on both streams."""

    def ran(*arguments, typed="", user=None):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        try:
            status = main(list(arguments), settings, user)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return ran


def test_a_command_ends_once_what_it_has_changed_counts(settings, capsys):
    """So that the next one may use a key that was made; what changes nothing, or fails, has nothing to wait for."""
    waited = []

    def ran(*command):
        waited.clear()
        status = main(list(command), settings, pause=waited.append)
        capsys.readouterr()
        return status, waited == [COUNTS_AFTER]

    assert COUNTS_AFTER > REFRESH_SECONDS
    for command in (("make", "a"), ("set", "a", "--notes", "x"), ("disable", "a"), ("enable", "a"), ("rotate", "a")):
        assert ran(*command) == (0, True)
    assert ran("list") == ran("show", "a") == (0, False)
    assert ran("disable", "b") == (1, False)
    assert ran("delete", "a") == (0, True)


def test_a_key_is_printed_once_and_alone(run, registry):
    """On standard output, for `key=$(...)`; what there is to say about it is on the other stream."""
    status, out, said = run("make", "billing")
    assert (status, out.count("\n")) == (0, 1)
    key = registry.find("billing")
    assert key.hash == digest(out.strip())
    assert id_of(out.strip()) == key.id
    assert key.id in said
    for command in (("list",), ("show", "billing"), ("list", "--json"), ("show", "billing", "--json")):
        shown = "".join(run(*command)[1:])
        assert key.id in shown
        assert out.strip().rpartition("_")[2] not in shown
        assert key.hash not in shown


def test_every_field_can_be_set_and_taken_back(run, registry):
    """As the operator writes them: names, amounts, spans and times."""
    limits = "--requests-per-minute 60 --requests-per-hour 0 --concurrent-requests 3 --tokens-per-minute 4".split()
    limits += "--tokens-per-day 5 --tokens-per-month 6 --money-per-day 2.5 --money-per-month 100".split()
    rest = ["--models", "avibe, avision", "--priority", "low", "--notes", "a b", "--expires", "30d"]
    assert run("make", "billing", *limits, *rest)[0] == 0
    key = registry.find("billing")
    assert key.account.limits == Limits(60, 0, 3, 4, 5, 6, 2_500_000, 100_000_000)
    assert (key.account.models, key.account.priority, key.notes) == ({"avibe", "avision"}, "low", "a b")
    assert abs(key.expires_at - time.time() - 30 * DAY) < 100
    names = [name for name in limits if name.startswith("--")]
    back = [word for name in (*names, "--models", "--expires") for word in (name, "none")]
    status, _, said = run("set", "billing", "--name", "bills", "--priority", "none", *back)
    assert (status, "bills" in said) == (0, True)
    key = registry.find("bills")
    assert (key.account.limits, key.account.models, key.expires_at) == (Limits(), None, None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [("2096-12-31", 4007750400), ("2096-12-31T18:00", 4007815200), ("2096-12-31T18:00+03:00", 4007804400)],
)
def test_a_time_is_in_utc_unless_it_says_otherwise(run, registry, text, moment):
    """A day ends a key at its beginning."""
    run("make", "billing")
    run("set", "billing", "--expires", text)
    assert registry.find("billing").expires_at == moment


@pytest.mark.parametrize(
    "wrong",
    [
        ("make",),
        ("make", "a", "--requests-per-minute", "-1"),
        ("make", "a", "--requests-per-minute", "1.5"),
        ("make", "a", "--money-per-day", "0.0000001"),
        ("make", "a", "--money-per-day", "-1"),
        ("make", "a", "--money-per-day", "NaN"),
        ("make", "a", "--money-per-day", "Infinity"),
        ("make", "a", "--expires", "tomorrow"),
        ("make", "a", "--expires", "30"),
        ("make", "a", "--expires", "0s"),
        ("make", "a", "--expires", "2020-01-01"),
        ("make", "a", "--expires", "2020-01-01", "--line"),
        ("make", "a", "--expires", "999999999d"),
        ("make", "a", "--expires", "0001-01-01"),
        ("make", "a", "--priority", "urgent"),
        ("make", "a", "--models", ","),
        ("make", "a", "--models", "avibe,gpt-4o"),
        ("make", "a", "--models", "avibe@v2", "--line"),
        ("make", "a", "--models", "AvitoTech/avibe"),
        ("make", "a\nb"),
        ("rotate", "a", "--grace", "soon"),
        ("set", "a"),
        ("explode",),
        (),
    ],
)
def test_what_is_asked_wrongly_changes_nothing(run, registry, wrong):
    """Exit status 2, a sentence, no traceback."""
    status, out, said = run(*wrong)
    assert (status, out) == (2, "")
    assert said
    assert registry.all() == []


def test_what_a_key_cannot_be_changed_to(run, registry):
    """An expiry that is past, and an unknown model; each is told in a sentence, and the key is as it was."""
    run("make", "billing", "--expires", "30d", "--models", "avibe-demo")
    before = registry.find("billing")
    for field, value, said in (
        ("--expires", "2020-01-01", "expires_at: expected a time in the future."),
        ("--models", "gpt-4o", "models: expected names of this service's models (avibe, avision)."),
    ):
        assert run("set", "billing", field, value) == (2, "", said + "\n")
    assert registry.find("billing") == before


@pytest.mark.parametrize("command", ["show", "set", "disable", "enable", "rotate", "delete"])
def test_an_unknown_key_is_said_to_be_one(run, command):
    """Exit status 1."""
    status, _, said = run(command, "nobody", *(["--notes", "a"] if command == "set" else []))
    assert (status, "no key of this id or name" in said) == (1, True)


def test_the_life_of_a_key(run, registry, database):
    """Disabled, enabled, rotated with a grace time, deleted; each act is in the audit trail."""
    _, first, _ = run("make", "billing")
    assert run("disable", "billing")[0] == 0
    assert run("check", typed=first)[0] == 1
    assert run("enable", "billing")[0] == 0
    assert run("check", typed=first)[:1] == (0,)
    _, second, said = run("rotate", "billing", "--grace", "1h")
    assert re.search(r"good until \d{4}-\d\d-\d\dT", said)
    assert re.search(r"old secret until +\d{4}-\d\d-\d\dT", run("show", "billing")[1])
    assert json.loads(run("show", "billing", "--json")[1])["previous_until"]
    assert run("rotate", "billing", "--grace", "999999999d")[0] == 2
    assert [run("check", typed=text)[0] for text in (first, second)] == [0, 0]
    _, third, said = run("rotate", "billing")
    assert "no longer" in said
    assert "old secret" not in run("show", "billing")[1]
    assert [run("check", typed=text)[0] for text in (first, second, third)] == [1, 1, 0]
    assert run("delete", "billing")[0] == 0
    assert run("check", typed=third)[0] == 1
    entries = acts(database.engine())
    assert len(entries) == 6
    assert all(act.actor for act in entries)


@pytest.mark.parametrize("typed", ["", "\n", "sk-1\n", "avito_", "é" * 100])
def test_what_is_no_key_is_said_to_be_none(run, typed):
    """It is read from standard input, where no other user of the machine sees it."""
    assert run("check", typed=typed) == (1, "", "This is no key of the service.\n")


def test_a_line_for_the_file_stores_nothing(run, settings, registry, tmp_path, capsys):
    """The key, and the line; a service that reads it shows and checks the key."""
    status, out, _ = run("make", "in a file", "--line", "--models", "avibe", "--tokens-per-day", "5")
    text, line = out.splitlines()
    assert (status, json.loads(line)["hash"]) == (0, digest(text))
    assert not list(tmp_path.iterdir())
    (tmp_path / "keys").write_text(line)
    ours = load_settings({"STATE_DIR": str(tmp_path), "API_KEYS_FILE": str(tmp_path / "keys")}, None)
    assert main(["list"], ours) == main(["show", "in a file"], ours) == 0
    shown = capsys.readouterr().out
    assert "file" in shown
    assert "avibe" in shown
    assert main(["make", "in the database"], ours) == 0
    (tmp_path / "keys").write_text(line.replace('"avibe"', '"gpt-4o"'))
    assert main(["list"], ours) == 1
    listed = capsys.readouterr()
    assert "line 1: models: expected names of this service's models (avibe, avision)." in listed.err
    assert "in the database" in listed.out.splitlines()[-1]


def test_there_may_be_no_keys(run):
    """Which is said, and no failure."""
    assert run("list") == (0, "", "There are no keys.\n")


def test_a_database_that_is_away_is_said_to_be(tmp_path, capsys):
    """Without its URL, which may hold a password."""
    (tmp_path / "file").write_text("")
    settings = load_settings({"DATABASE_URL": f"sqlite:///{tmp_path}/file/here.db"}, None)
    assert main(["list"], settings) == 1
    assert str(tmp_path) not in capsys.readouterr().err


def test_root_does_not_take_the_database_from_the_service(run, tmp_path):
    """A file that root makes could not be written by the service's user."""
    if os.geteuid() == 0:  # else the folder is another user's than root's already
        os.chown(tmp_path, 65534, -1)
    status, _, said = run("make", "billing", user=0)
    assert (status, "sudo -u" in said) == (1, True)
    assert not list(tmp_path.iterdir())


def test_a_user_without_a_name_is_told_by_number():
    """As in a container that runs under a number of its own; sudo takes the same notation."""
    unknown = next(number for number in range(54_321, 60_000) if number not in {one.pw_uid for one in pwd.getpwall()})
    assert name_of_user(unknown) == f"#{unknown}"
    assert name_of_user(0) == pwd.getpwuid(0).pw_name


def test_the_program_reads_the_settings_of_the_service(tmp_path):
    """As an operator calls it."""
    environ = {**os.environ, "STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "keys"]
    made = subprocess.run(
        [*command, "make", "billing"], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600
    )
    assert id_of(made.stdout.strip())
    assert "once AUTH names keys" in made.stderr
    listed = subprocess.run(
        [*command, "list"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=600
    )
    assert listed.stdout.rstrip().endswith("active    database  billing")
