"""A unit that systemd could not begin says why in its own journal, in a sentence and not by a number alone."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOWN = """
case "$3" in
User) echo avito-ai ;;
Group) echo some-group ;;
WorkingDirectory) echo /opt/avito-ai/current ;;
LimitNOFILE) echo 65536 ;;
StateDirectory) echo avito-ai ;;
ExecStart) echo "{ path=/opt/avito-ai/vllm/bin/vllm ; argv[]=/opt/avito-ai/vllm/bin/vllm serve ; ignore_errors=no }" ;;
esac
"""
StandIn = Callable[[str, str], None]


def explained(code: str, status: str) -> str:
    environ = os.environ | {"MONITOR_EXIT_CODE": code, "MONITOR_EXIT_STATUS": status}
    command = [str(ROOT / "deploy/explain.sh"), "avito-ai.service"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=600).stdout


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("217", "there is no user avito-ai: sudo ./deploy.sh production makes it"),
        ("216", "there is no group some-group"),
        ("200", "its folder /opt/avito-ai/current is missing or closed to the user avito-ai"),
        ("203", "its program /opt/avito-ai/vllm/bin/vllm is missing or cannot be run"),
        ("205", "LimitNOFILE=65536"),
        ("226", "what confines it"),
        ("228", "what confines it"),
        ("238", "the disk is full or read-only"),
        ("245", "man systemd.exec lists the status 245"),
    ],
)
def test_a_status_of_systemd_is_a_sentence(stand_in: StandIn, tmp_path: Path, status: str, said: str) -> None:
    """It is an error in the journal of the unit that failed, and names what is missing."""
    stand_in("systemctl", SHOWN)
    stand_in("logger", f'cat >"{tmp_path}/journal"')
    assert explained("exited", status) == ""
    entry = dict(line.split("=", 1) for line in (tmp_path / "journal").read_text().splitlines())
    assert (entry["OBJECT_SYSTEMD_UNIT"], entry["PRIORITY"]) == ("avito-ai.service", "3")
    assert entry["MESSAGE"].startswith("avito-ai cannot start: ")
    assert said in entry["MESSAGE"]


@pytest.mark.parametrize(("code", "status"), [("exited", "2"), ("exited", "4"), ("killed", "9"), ("", "")])
def test_what_the_program_says_itself_is_left_to_it(stand_in: StandIn, code: str, status: str) -> None:
    """Only what systemd reports gets a sentence."""
    stand_in("systemctl", SHOWN)
    stand_in("logger", "exit 1")
    assert explained(code, status) == ""


def test_a_journal_that_cannot_be_written_to_loses_nothing(stand_in: StandIn) -> None:
    """The sentence is in the journal of the explanation then."""
    stand_in("systemctl", SHOWN)
    stand_in("logger", "cat >/dev/null; exit 1")
    assert explained("exited", "217").startswith("avito-ai cannot start: there is no user avito-ai")


@pytest.mark.parametrize(
    "unit",
    [ROOT / "avito-ai.service", *(ROOT / "deploy/systemd").glob("*.service")],
    ids=lambda path: path.name,
)
def test_every_unit_is_explained(unit: Path) -> None:
    """By the one template; and what a release brings is asserted, since without it there is no explanation either."""
    text = unit.read_text(encoding="utf-8")
    if unit.name == "avito-ai-explain@.service":
        return
    assert re.search(r"^OnFailure=avito-ai-explain@%N\.service$", text, re.MULTILINE)
    for program in re.findall(r"^ExecStart(?:Post)?=(\S+)", text, re.MULTILINE):
        checked = re.findall(r"^(?:Assert|Condition)PathExists=(\S+)", text, re.MULTILINE)
        assert any(path.startswith(str(Path(program).parent)) for path in checked), program
