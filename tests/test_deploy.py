"""deploy.sh before it serves: tools, disk space, port, packages and settings file."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.gunicorn_process import free_port
from tests.sandbox import Sandbox

pytestmark = pytest.mark.slow

TWO_GPUS = "echo 'GPU 0: NVIDIA H200 (UUID: GPU-aaaa)'; echo 'GPU 1: NVIDIA H200 (UUID: GPU-bbbb)'"
STOP_AT_SETTINGS = {"DEVICE": "nonsense"}  # development runs up to the check of the settings, then ends


@pytest.fixture
def box(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.fixture
def ready_box(box: Sandbox) -> Sandbox:
    """A machine with Python, and a settings file that selects the second GPU."""
    box.python()
    (box.root / ".env.example").write_text("PORT=8085\nCUDA_VISIBLE_DEVICES=1\nLOG_LEVEL=INFO\n")
    return box


@pytest.fixture
def package_index() -> Iterator[str]:
    """A server that responds on any path, like a reachable index."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/whl/cpu"
    server.shutdown()
    thread.join(60)
    server.server_close()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def develop(box: Sandbox, **extra: str) -> subprocess.CompletedProcess[str]:
    return box.run("development", **{"PORT": str(free_port()), **STOP_AT_SETTINGS, **extra})


# --- commands ---


@pytest.mark.parametrize("arguments", [(), ("help",), ("--help",)])
def test_help_names_every_command(box: Sandbox, arguments: tuple[str, ...]) -> None:
    """Without a command, or with help, it lists its commands."""
    done = box.run(*arguments)
    assert done.returncode == 0
    assert all(f"  {command} " in done.stdout for command in ("development", "test", "help"))


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_a_command_tells_its_own_usage(box: Sandbox, option: str) -> None:
    """Before anything is set up, on a machine without Python too; `keys` has a text of its own."""
    shown = re.findall(r"^  ([a-z]+) ", box.run("help").stdout, re.MULTILINE)
    assert {"development", "models", "test", "production", "update"} <= set(shown)
    for command in set(shown) - {"help", "keys"}:
        done = box.run(command, option)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.findall(r"^  ([a-z]+) ", done.stdout, re.MULTILINE) == [command]
    assert "--dry-run" in box.run("models", "avibe", option).stdout
    assert "--domain" in box.run("production", "DEVICE=cpu", option).stdout
    assert not (box.root / ".venv").exists()


def test_an_unknown_command_is_refused_by_name(box: Sandbox) -> None:
    """A typo prints the usage and an error that repeats it."""
    done = box.run("developement")
    assert done.returncode == 1
    assert "There is no command 'developement'." in done.stderr


def test_development_refuses_arguments(box: Sandbox) -> None:
    """No argument is silently ignored."""
    done = box.run("development", "--port=1")
    assert done.returncode == 1
    assert "'--port=1'" in done.stderr


# --- Python ---


def test_a_machine_without_python_gets_the_name_of_the_package(box: Sandbox) -> None:
    """The suggestion is a package that this system's apt has."""
    box.tool("apt-cache", '[ "$2" = python3.12-venv ]')
    done = box.run("development")
    assert done.returncode == 1
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr
    assert "sudo apt-get install python3.12-venv" in done.stderr


@pytest.mark.parametrize(
    ("tool", "remedy"),
    [("brew", "brew install python@3.13"), ("dnf", "sudo dnf install python3.13"), ("true", "package manager")],
)
def test_the_remedy_fits_the_system(box: Sandbox, tool: str, remedy: str) -> None:
    """Homebrew, dnf and unknown systems get their own suggestions."""
    box.tool(tool, "exit 0")
    assert remedy in box.run("development").stderr


def test_a_shim_that_fails_is_passed_over(ready_box: Sandbox) -> None:
    """A program on PATH that only prints an error is not used as Python."""
    ready_box.tool("python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    (ready_box.bin / "python3").rename(ready_box.bin / "python3.11")
    done = develop(ready_box)
    assert "Creating a virtual environment" in done.stdout


def test_an_unsupported_python_is_not_used(box: Sandbox) -> None:
    """A Python that is too old or too new is ignored."""
    box.tool("python3", "exit 1")
    assert "none was found" in box.run("development").stderr


def test_a_python_of_pyenv_is_found_without_a_shim(ready_box: Sandbox) -> None:
    """pyenv keeps its Pythons where no PATH leads; they are looked up there."""
    folder = ready_box.home / ".pyenv/versions/3.12.1/bin"
    folder.mkdir(parents=True)
    (ready_box.bin / "python3").rename(folder / "python")
    assert "Creating a virtual environment" in develop(ready_box).stdout


def test_a_python_that_can_make_environments_is_preferred(ready_box: Sandbox) -> None:
    """A Python with its venv module is preferred to a newer one without it."""
    ready_box.python("python3.13", cases='*"import venv, ensurepip"*) exit 1 ;;')
    assert "Creating a virtual environment" in develop(ready_box).stdout


def test_a_missing_venv_module_is_named_with_its_package(box: Sandbox) -> None:
    """Debian's Python comes without venv; the message has its package by version."""
    box.python(cases='*"import venv, ensurepip"*) exit 1 ;;')
    done = box.run("development")
    assert done.returncode == 1
    assert "lacks its venv module" in done.stderr
    assert "sudo apt-get install python3." in done.stderr


def test_the_python_asked_for_must_work(box: Sandbox) -> None:
    """PYTHON is used, or refused if it does not work."""
    done = box.run("development", PYTHON="python9")
    assert "PYTHON=python9 is not a working Python" in done.stderr


def test_a_damaged_environment_is_made_anew(ready_box: Sandbox) -> None:
    """An interrupted run does not break the next one."""
    (ready_box.root / ".venv/bin").mkdir(parents=True)
    (ready_box.root / ".venv/bin/python").write_text("not a program")
    done = develop(ready_box)
    assert "creating it again" in done.stdout
    assert (ready_box.root / ".venv/requirements.txt.installed").exists()


# --- packages ---


def test_packages_are_installed_once(ready_box: Sandbox) -> None:
    """A second run does not call pip."""
    develop(ready_box)
    asked = len(ready_box.calls())
    done = develop(ready_box)
    assert asked == 2  # install, check
    assert len(ready_box.calls()) == asked
    assert "The packages are up to date." in done.stdout


def test_changed_requirements_are_installed_again(ready_box: Sandbox) -> None:
    """An update of the checkout brings its packages with the next run."""
    develop(ready_box)
    with (ready_box.root / "requirements.txt").open("a") as file:
        file.write("# changed\n")
    develop(ready_box)
    assert len(ready_box.calls()) == 4


def test_an_install_that_failed_is_tried_again(ready_box: Sandbox) -> None:
    """A failure is reported, ends the run, and does not mark the packages as installed."""
    ready_box.pip_answers("exit 1")
    done = develop(ready_box)
    assert done.returncode == 1
    assert "could not be installed" in done.stderr
    assert not (ready_box.root / ".venv/requirements.txt.installed").exists()


def test_pips_messages_go_to_a_file(ready_box: Sandbox) -> None:
    """The screen has one line with the seconds; pip's own lines are where it says."""
    ready_box.pip_answers("echo Collecting flask; exit 0")
    done = develop(ready_box)
    assert "Collecting flask" not in done.stdout
    assert re.search(r"==> Installed the packages in \d+ s; pip's own messages are in \.venv/pip\.log\.", done.stdout)
    assert "Collecting flask" in (ready_box.root / ".venv/pip.log").read_text()


def test_the_end_of_pips_messages_is_shown_if_it_fails(ready_box: Sandbox) -> None:
    """The reason is on the screen, above ours."""
    ready_box.pip_answers("echo 'ERROR: no matching distribution' >&2; exit 1")
    done = develop(ready_box)
    assert done.stderr.index("ERROR: no matching distribution") < done.stderr.index("could not be installed")


def install_slowly(box: Sandbox, steps: str) -> str:
    """Return what a run prints if pip, after these steps, goes on for a whole wait and the sign that follows it."""
    waits, real = box.root / "waits", shutil.which("sleep")
    box.tool("sleep", f'case "$1" in 20) echo >>{waits}; exec {real} 0.1 ;; esac; exec {real} "$@"')
    waits.touch()
    pause = f"began=$(wc -l <{waits}); until [ $(wc -l <{waits}) -ge $((began + 2)) ]; do {real} 0.1; done"
    box.pip_answers(f"{steps}; PATH=/usr/bin:/bin; {pause}; exit 0")
    return develop(box).stdout


def test_a_long_installation_gives_signs_of_life(ready_box: Sandbox) -> None:
    """Now and then a line says what pip does: the last step, and not what it warns of or draws meanwhile."""
    noise = "echo '     ━━━━ 9/99 MB'; echo 'WARNING: Location is ignored'; echo '      Successfully uninstalled pip-1'"
    said = install_slowly(ready_box, f"echo Collecting torch; echo '  Downloading torch'; {noise}")
    assert "Still installing after 20 s: Downloading torch" in said


def test_the_longest_step_of_an_installation_says_how_far_it_is(ready_box: Sandbox) -> None:
    """While pip unpacks, which it says once at the beginning, the line has the megabytes that are there."""
    steps = "echo 'Installing collected packages: mpmath, torch'; echo '    Uninstalling setuptools-66.1.1:'"
    said = install_slowly(ready_box, f"head -c 3000000 /dev/zero >.venv/large; {steps}")
    found = re.search(r"Still installing after 20 s: unpacking the packages, (\d+) of about (\d+) MB", said)
    assert found
    assert int(found[1]) >= 2
    assert int(found[2]) >= 1250


def test_packages_that_do_not_fit_together_are_not_used(ready_box: Sandbox) -> None:
    """An error of pip check ends the run too."""
    ready_box.pip_answers('case "$*" in *"pip check"*) exit 1 ;; *) exit 0 ;; esac')
    assert "conflict" in develop(ready_box).stderr


def test_sizes_and_room_are_said_before_the_download(ready_box: Sandbox) -> None:
    """Download size and disk space are printed before pip runs."""
    done = develop(ready_box)
    assert "torch's CPU build: up to 260 MB to download, about 1250 MB on disk" in done.stdout
    assert "MB are free here" in done.stdout


def test_too_small_a_disk_stops_before_the_download(ready_box: Sandbox) -> None:
    """The error has the required and the free space; pip is not called."""
    ready_box.tool("df", "echo header; echo /dev/x 1000000 900000 102400 90% /")
    done = develop(ready_box)
    assert done.returncode == 1
    assert "1250 MB are needed, 100 MB are free" in done.stderr
    assert ready_box.calls() == []


def test_too_small_a_folder_for_downloads_is_named(ready_box: Sandbox, tmp_path: Path) -> None:
    """pip unpacks in TMPDIR, which is often a small disk in memory."""
    row = "echo header; echo /dev/x 1 1 {} 90% /"
    ready_box.tool("df", f'if [ "$2" = . ]; then {row.format(9999999)}; else {row.format(1024)}; fi')
    assert f"downloads in {tmp_path}" in develop(ready_box, TMPDIR=str(tmp_path)).stderr


def test_torch_comes_from_the_index_that_answers(ready_box: Sandbox, package_index: str) -> None:
    """The CPU build has an index of its own; only torch is taken from it."""
    develop(ready_box, TORCH_INDEX_URL=package_index)
    first, *others = ready_box.calls()
    assert f"--no-deps --index-url {package_index} torch==" in first
    assert not any("--index-url" in call for call in others)


def test_an_index_that_cannot_be_reached_is_replaced_aloud(ready_box: Sandbox) -> None:
    """If PyTorch's index is unreachable, pip's own configuration is used, with a message."""
    done = develop(ready_box)
    assert "cannot be reached; using pip's own configuration for torch" in done.stderr
    assert not any("--index-url" in call for call in ready_box.calls())


def test_an_index_without_this_torch_is_replaced_aloud(ready_box: Sandbox, package_index: str) -> None:
    """An index without the version is replaced by pip's own configuration."""
    ready_box.pip_answers('case "$*" in *--index-url*) exit 1 ;; *) exit 0 ;; esac')
    done = develop(ready_box, TORCH_INDEX_URL=package_index)
    assert "does not have torch==" in done.stdout
    assert "install --disable-pip-version-check --requirement requirements.txt" in ready_box.calls()[1]


def test_a_gpu_that_came_later_brings_its_build_of_torch(ready_box: Sandbox) -> None:
    """Both builds have the same version; the CPU build is removed if there is a GPU."""
    develop(ready_box)
    ready_box.tool("nvidia-smi", TWO_GPUS)
    done = develop(ready_box, TORCH_INDEX_URL="")
    assert any("uninstall --yes --quiet torch" in call for call in ready_box.calls())
    assert not any("--index-url" in call for call in ready_box.calls())
    assert "cannot be reached" not in done.stderr


# --- the settings file ---


def test_the_settings_file_is_made_from_the_example(ready_box: Sandbox) -> None:
    """If the second GPU exists, the whole example is copied."""
    ready_box.tool("nvidia-smi", TWO_GPUS)
    develop(ready_box)
    assert (ready_box.root / ".env").read_text() == (ready_box.root / ".env.example").read_text()


@pytest.mark.parametrize("gpus", ["exit 9", "echo 'GPU 0: NVIDIA H200 (UUID: GPU-aaaa)'"])
def test_the_settings_file_leaves_out_a_gpu_that_is_not_there(ready_box: Sandbox, gpus: str) -> None:
    """On a laptop or a server with one GPU, the line of the second GPU is left out."""
    ready_box.tool("nvidia-smi", gpus)
    done = develop(ready_box)
    assert (ready_box.root / ".env").read_text() == "PORT=8085\nLOG_LEVEL=INFO\n"
    assert ("without CUDA_VISIBLE_DEVICES=1" in done.stdout) is gpus.startswith("echo")
    assert ("CUDA" in done.stdout) is gpus.startswith("echo")  # no word of it where there is no GPU
    assert (ready_box.root / ".env").stat().st_mode & 0o077 == 0


def test_a_gpu_may_be_named_by_its_uuid(ready_box: Sandbox) -> None:
    """The example may name a GPU as nvidia-smi does."""
    ready_box.tool("nvidia-smi", TWO_GPUS)
    (ready_box.root / ".env.example").write_text("CUDA_VISIBLE_DEVICES=GPU-bbbb\n")
    develop(ready_box)
    assert "GPU-bbbb" in (ready_box.root / ".env").read_text()


def test_a_settings_file_that_is_there_stays_as_it_is(ready_box: Sandbox) -> None:
    """The operator's file is never written."""
    (ready_box.root / ".env").write_text("LOG_LEVEL=DEBUG\n")
    develop(ready_box)
    assert (ready_box.root / ".env").read_text() == "LOG_LEVEL=DEBUG\n"


def test_mistakes_in_the_settings_are_all_shown(ready_box: Sandbox) -> None:
    """The run ends before Gunicorn starts, with every mistake and where to fix it."""
    done = develop(ready_box, TEMPERATURE="hot")
    assert done.returncode == 1
    assert "DEVICE=" in done.stderr
    assert "TEMPERATURE=" in done.stderr
    assert "Fix the settings above first" in done.stderr


# --- the port ---


def test_a_taken_port_names_the_process_and_the_remedy(ready_box: Sandbox, taken_port: int) -> None:
    """Nothing is installed if the server cannot start."""
    done = ready_box.run("development", PORT=str(taken_port))
    assert done.returncode == 1
    assert f"Port {taken_port} is held by " in done.stderr
    assert f"(process {os.getpid()})" in done.stderr
    assert "PORT=" in done.stderr
    assert not (ready_box.root / ".venv").exists()


def test_the_port_of_the_settings_file_counts(ready_box: Sandbox, taken_port: int) -> None:
    """The address comes from the environment, then the settings file, as for the service."""
    (ready_box.root / ".env").write_text(f"PORT={taken_port}\n")
    assert f"Port {taken_port} is held by" in ready_box.run("development").stderr
