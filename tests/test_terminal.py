"""How commands end: quietly on Ctrl+C with 130, and with 141 where their output is not read to its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system_programs import unmeasured

ROOT = Path(__file__).parents[1]
# Processes of the service, which leave Ctrl+C to it.
NO_COMMANDS = {"engine/text/image_worker.py", "engine/text/grammar_worker.py", "upstream/schema_process.py"}
PACKAGES = ("deploy", "benchmarks", "demo")
BEGIN = "from terminal import end_quietly\nend_quietly()\n"
WAITING = """
import time
try:
    print("begun", flush=True)
    time.sleep(60)
finally:
    print("cleaned up")
"""
WRITING = """
import socket, sys
one, other = socket.socketpair()
other.close()
try:
    one.send(b"x")
except BrokenPipeError:
    print("the socket is closed", file=sys.stderr, flush=True)
try:
    for number in range(10**5):
        print("line", number)
except OSError as error:
    print("failed:", error, file=sys.stderr)
"""


def unread(*words: str) -> tuple[int, str]:
    """Run Python with an output that nobody reads; return its status and its standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=unmeasured(), stdout=writing, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writing)
    return done.returncode, done.stderr


def test_ctrl_c_ends_a_command_quietly() -> None:
    """With 130, after what it had begun is cleaned up."""
    command, pipe = [sys.executable, "-c", BEGIN + WAITING], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=unmeasured(), stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("cleaned up\n", "")
    assert process.returncode == 130


def test_who_handles_ctrl_c_still_does() -> None:
    """It is a KeyboardInterrupt, and the program goes on from there."""
    program = (
        BEGIN
        + "import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt:\n    print('on')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("on\n", "")


@pytest.mark.parametrize(("options", "stream"), [((), "stderr"), (("-u",), "stdout")])
def test_what_is_written_at_once_stays_so(options: tuple[str, ...], stream: str) -> None:
    """Each line of standard error, and all of a Python that is told to buffer nothing."""
    program = f"{BEGIN}import os, sys\nprint('there', file=sys.{stream})\nos._exit(0)"
    done = subprocess.run(
        [sys.executable, *options, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert getattr(done, stream) == "there\n"


def test_a_command_without_an_output_says_nothing() -> None:
    """Its descriptor may be closed from the start."""
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", f"{BEGIN}print('there')"]
    done = subprocess.run(shell, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr == ""


def test_a_command_whose_reader_is_gone_ends_quietly() -> None:
    """With 141, whatever it makes of an OSError; a socket that is closed is still one."""
    assert unread("-c", BEGIN + WRITING) == (141, "the socket is closed\n")


@pytest.mark.parametrize("words", [("config.py",), ("-m", "deploy.sbom", "cuda"), ("-m", "keys", "--help")])
def test_nothing_is_said_of_a_pipe_that_is_closed_from_the_start(words: tuple[str, ...]) -> None:
    """Programs in the root, in a package of commands, and a package that is one, with short and long output."""
    status, said = unread(*words)
    assert (status in (0, 141), said) == (True, "")


def test_a_program_in_the_background_ignores_ctrl_c_as_before() -> None:
    """What a shell starts with `&` has SIGINT ignored."""
    program = (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        + BEGIN
        + ("signal.raise_signal(signal.SIGINT)\nprint('there')")
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "there\n"


def test_every_command_ends_so() -> None:
    """Each program of the tree, by its package or by itself."""
    for package in PACKAGES:
        assert "end_commands_quietly()" in (ROOT / package / "__init__.py").read_text(encoding="utf-8")
    programs = [
        path
        for path in ROOT.rglob("*.py")
        if not {".venv", "tests"} & set(path.relative_to(ROOT).parts)
        and re.search(r'^if __name__ == "__main__":', path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(programs) > 40
    left = {
        str(path.relative_to(ROOT))
        for path in programs
        if path.relative_to(ROOT).parts[0] not in PACKAGES
        and not re.search(r"end_quietly\(\)|except KeyboardInterrupt", path.read_text(encoding="utf-8"))
    }
    assert left == NO_COMMANDS


def test_programs_that_are_run_by_their_path_end_so_themselves() -> None:
    """No package is imported then; most run where the rest of the tree is not."""
    scripts = [ROOT / "Dockerfile", ROOT / "deploy.sh", *(ROOT / "deploy").rglob("*.sh")]
    named = {
        name
        for script in scripts
        for name in re.findall(r"python3?\"? (?:-I )?\"?[^ \n]*?(\w+\.py)\b", script.read_text(encoding="utf-8"))
    }
    alone = [path for name in named for path in (ROOT / "deploy").rglob(name)] + [
        ROOT / "engine/model/kernels/build.py"
    ]
    assert {path.name for path in alone} >= {"build.py", "canary.py", "render.py"}
    assert [path for path in alone if "except KeyboardInterrupt" not in path.read_text(encoding="utf-8")] == []


def test_scripts_that_clean_up_keep_the_status() -> None:
    """130 for Ctrl+C, 143 and 129 for what else ends them."""
    numbers = {"INT": "130", "TERM": "143", "HUP": "129"}
    traps = [
        (command, name)
        for script in [ROOT / "deploy.sh", *(ROOT / "deploy").rglob("*.sh")]
        for command, names in re.findall(r"^ *trap '([^']+)' (.+)$", script.read_text(encoding="utf-8"), re.MULTILINE)
        for name in names.split()
    ]
    assert len(traps) > 12
    assert [(command, name) for command, name in traps if numbers.get(name, "") not in command] == []


def test_a_program_of_others_ends_so_from_its_first_import_on() -> None:
    """It is started as Python would start it, with its arguments, and its name in place of the module's."""
    done = subprocess.run(
        [sys.executable, "-m", "terminal", "json.tool", "--json-lines", "--compact"],
        input='{"a": 1}\n',
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == '{"a":1}\n'
    assert "-m terminal gunicorn -c" in (ROOT / "deploy/lib/serve.sh").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", sorted(NO_COMMANDS))
def test_a_process_of_the_service_leaves_ctrl_c_to_it(file: str) -> None:
    """Before it imports anything."""
    first, _, rest = (ROOT / file).read_text(encoding="utf-8").partition("signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert rest
    assert re.findall(r"^\s*(?:import|from) (\w+)", first.partition('"""\n\n')[2], re.MULTILINE) == [
        "__future__",
        "signal",
    ]
