"""The scripts read a settings file as the service does, or a start would be looked for at another address."""

import re
import shutil
import subprocess

import pytest
from dotenv import dotenv_values

from checks.settings_file import write
from config import SETTINGS
from deploy.probe import fetch_json
from tests.deploy.monitoring.exported import ROOT

LINES = [
    'PORT="9321"',
    "PORT='9321'",
    "PORT=9322 # mine",
    "PORT='a # b' # c",
    'PORT="a # b" # c',
    "export PORT=9324",
    "  export   PORT = 9325  ",
    "PORT=9326\r",
    'PORT="9327"\r',
    "PORT=a b",
    "PORT=a#b",
    "PORT=#x",
    "PORT=",
    "#PORT=1",
    "PORTS=1",
    "PORT=1\nPORT=2",
    "PORT=/a path/with='quotes'",
    "PORT=\t9328\t#\tmine",
    "PORT='it\\'s \\\\ # it' # c",
    'PORT="a \\" # b" # c',
]


@pytest.mark.parametrize("text", LINES)
def test_a_setting_is_what_the_service_reads(tmp_path, text):
    """Blanks, `export`, quotes, comments, and the line ends of an editor on Windows."""
    file = tmp_path / ".env"
    file.write_bytes(f"OTHER=1\n{text}\nLAST=2\n".encode())
    script = f'. {ROOT}/deploy/lib/say.sh; setting_in "$0" PORT; ENV_FILE_PATH="$0"; setting PORT default'
    told = subprocess.run(["bash", "-c", script, file], capture_output=True, text=True, check=True, env={"ROOT": "/"})
    wanted = dotenv_values(file).get("PORT") or ""
    assert told.stdout.strip("\n") == (f"{wanted}\n{wanted}" if wanted else "default")
    assert told.stderr == ""


@pytest.mark.parametrize("text", LINES)
def test_a_setting_that_is_put_is_what_the_service_reads(tmp_path, text):
    """Whatever line sets it now, and only once; all other lines stay."""
    file = tmp_path / ".env"
    file.write_bytes(f"OTHER=1\n#PORT=8085\n{text}\nPORTS=2\n".encode())
    script = f""". {ROOT}/deploy/lib/say.sh; . {ROOT}/deploy/lib/account.sh; SETTINGS_FILE="$0"
        write_settings() {{ local new; new="$(cat)"; echo "$new" > "$SETTINGS_FILE"; }}
        note() {{ :; }}
        put_setting PORT=9100"""
    subprocess.run(["bash", "-c", script, file], check=True, env={"ROOT": "/", "PATH": "/usr/bin:/bin"})
    read = dotenv_values(file)
    assert (read["PORT"], read["OTHER"], read["PORTS"]) == ("9100", "1", "2")
    assert file.read_text(encoding="utf-8").count("9100") == 1


VALUES = [
    "a # b",
    "#a",
    "it's",
    "a'b\"c",
    "a 'b' # c",
    "'a'",
    '"a"',
    "a\\b",
    "a\\",
    "\\'",
    "$HOME `id` $(id)",
    "a  b",
    "%2F&/|",
]


@pytest.mark.parametrize("value", [*VALUES, "plain:/@?=", "я и #"])
def test_a_value_is_written_whole(tmp_path, value):
    """The service, the scripts and a second run read what was given; `config.py set` writes the same line."""
    file, other = tmp_path / ".env", tmp_path / "other"
    for one in (file, other):
        one.write_text("PORT=1\nNEXT=2\n", encoding="utf-8")
    script = f""". {ROOT}/deploy/lib/say.sh; . {ROOT}/deploy/lib/account.sh; SETTINGS_FILE="$0"
        write_settings() {{ local new; new="$(cat)"; echo "$new" > "$SETTINGS_FILE"; echo written; }}
        note() {{ :; }}
        put_setting "PORT=$1"; put_setting "PORT=$1"; file_setting PORT none"""
    command = ["bash", "-euo", "pipefail", "-c", script, file, value]
    environ = {"ROOT": "/", "PATH": "/usr/bin:/bin"}
    told = subprocess.run(command, check=True, env=environ, capture_output=True, text=True, encoding="utf-8").stdout
    assert told == f"written\n{value}\n"
    assert dotenv_values(file, interpolate=False) == {"PORT": value, "NEXT": "2"}
    write(other, {"PORT": value}, lambda _: None)
    assert file.read_text(encoding="utf-8") == other.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["a\nPORT=1", "a\r", "a\tb"])
def test_a_value_of_several_lines_is_refused(text):
    """It would be another setting, or lose a part."""
    assert refused(f"LOG_FILE={text}") != []


def test_a_file_that_is_not_there_has_no_setting(tmp_path):
    """The default counts."""
    script = f'ENV_FILE="$0"; . {ROOT}/deploy/lib/say.sh; setting PORT default'
    command = ["bash", "-c", script, tmp_path / "none"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout == "default\n"


def refused(*words):
    """Return the words that deploy.sh refuses as no settings of the service."""
    script = f""". {ROOT}/deploy/lib/say.sh; . {ROOT}/deploy/lib/account.sh
        for word; do (check_setting_word "$word") 2>/dev/null || echo "$word"; done"""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script, "deploy.sh", *words],
        capture_output=True,
        text=True,
        check=True,
        env={"ROOT": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    return done.stdout.splitlines()


def test_every_setting_and_the_file_of_every_secret_can_be_written():
    """What the service reads from its settings file, deploy.sh writes there."""
    names = [setting.name for setting in SETTINGS]
    names += [f"{setting.name}_FILE" for setting in SETTINGS if setting.secret]
    assert refused(*(f"{name}=1" for name in names)) == []


def test_a_name_that_is_no_settings_own_is_refused():
    """A name is no pattern, a part of one is none, and only secrets have files."""
    words = [
        "RATE.LIMIT.PER.MINUTE=5",
        "P.*=1",
        "POR=1",
        "ORT=1",
        "PORT|X=1",
        "PORT_FILE=/a",
        "#PORT=1",
        "NONE=1",
        "-e=1",
    ]
    assert refused(*words) == words


@pytest.mark.parametrize("url", ["http://127.0.0.1:1\r/", "http://[::1/", "none"])
def test_an_address_that_is_none_answers_nothing(url):
    """The probe goes on to say that nothing was found."""
    assert fetch_json(url) == (0, {})


@pytest.mark.parametrize("words", [["keys", "--help"], ["keys", "create", "-h"]])
def test_help_needs_no_installation(tmp_path, words):
    """`keys` tells what it takes in a fresh clone too."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    script = shutil.copy(ROOT / "deploy.sh", tmp_path)
    done = subprocess.run([script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "keys COMMAND" in done.stdout


def test_no_variable_of_the_scripts_replaces_a_setting():
    """What a script assigns to an exported name is what the service would read; HOST is asked for on purpose."""
    sources = [ROOT / "deploy.sh", ROOT / "deploy/backup.sh", *sorted((ROOT / "deploy/lib").glob("*.sh"))]
    assigned = re.compile(r"^\s*(?:(?:local|readonly|declare|export)\s+)?([A-Z][A-Z0-9_]*)=", re.MULTILINE)
    own = {name for source in sources for name in assigned.findall(source.read_text("utf-8"))}
    assert {"SERVICE_USER", "SETTINGS_FILE"} <= own
    assert own & {setting.name for setting in SETTINGS} == {"HOST"}


def test_the_settings_of_the_environment_outlive_the_scripts():
    """The service that a script starts reads them as they were given."""
    parts = "; ".join(f". {part}" for part in sorted((ROOT / "deploy/lib").glob("*.sh")))
    given = {setting.name: f"mine{number}" for number, setting in enumerate(SETTINGS)}
    told = subprocess.run(
        ["bash", "-c", f"{parts}; exec env"],
        capture_output=True,
        text=True,
        check=True,
        env=given | {"ROOT": str(ROOT)},
    )
    assert given.items() <= dict(line.partition("=")[::2] for line in told.stdout.splitlines()).items()
