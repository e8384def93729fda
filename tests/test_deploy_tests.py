"""`deploy.sh test`: installs the programs that the tests need, then runs pytest."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path
from threading import Timer

import pytest

from tests.deploy.production_box import DEPLOY
from tests.sandbox import TIMEOUT, Sandbox

pytestmark = pytest.mark.slow


@pytest.fixture
def box(tmp_path: Path) -> Sandbox:
    """A machine with Python."""
    made = Sandbox(tmp_path)
    made.python()
    return made


@pytest.fixture
def apt_box(box: Sandbox, tmp_path: Path) -> Sandbox:
    """A Debian as root, whose apt records its calls and whether services may start."""
    box.tool("id", "echo 0")
    box.tool(
        "apt-get",
        'case "$*" in *--assume-no*) echo "Need to get 105 MB of archives."; exit 1 ;; esac\n'
        f'echo "apt-get $* policy=$(sh "{tmp_path}/policy-rc.d"; echo $?)" >>"{box.log}"',
    )
    return box


def run_tests(box: Sandbox, *arguments: str) -> subprocess.CompletedProcess[str]:
    return box.run("test", *arguments, POLICY_RC_D=str(box.log.parent / "policy-rc.d"))


def at_terminal(box: Sandbox, *arguments: str, answer: bytes) -> str:
    """Run `deploy.sh test` at a terminal and type the answer; return the output."""
    main, terminal = pty.openpty()
    environ = box.environ(POLICY_RC_D=str(box.log.parent / "policy-rc.d"))
    command = ["bash", str(box.root / "deploy.sh"), "test", *arguments]
    with subprocess.Popen(command, env=environ, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        os.write(main, answer)
        overdue = Timer(TIMEOUT, process.kill)
        overdue.start()
        screen = b"".join(iter(lambda: read_terminal(main), b""))
        process.wait(TIMEOUT)
        overdue.cancel()
    os.close(main)
    return screen.decode()


def read_terminal(descriptor: int) -> bytes:
    """Return the terminal's next output; empty once its other end is closed, which Linux reports as an error."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


def left_out(box: Sandbox) -> list[str]:
    """Return the programs that the last run of pytest was missing."""
    return box.calls()[-1].partition(" --leave-out ")[2].split()


def test_other_systems_run_what_they_can(box: Sandbox) -> None:
    """Without apt all missing programs are listed, and the tests that need none of them run."""
    done = run_tests(box)
    assert done.returncode == 0
    assert "left out: curl chromium redis-server" in done.stderr
    assert left_out(box)[:3] == ["curl", "chromium", "redis-server"]
    assert "--cov" not in box.calls()[-1]


def test_missing_system_packages_are_listed_with_their_size_and_installed(apt_box: Sandbox) -> None:
    """Only what is missing is installed, without recommendations, and no service of theirs may start."""
    done = run_tests(apt_box, "--yes")
    (install,) = [call for call in apt_box.calls() if call.startswith("apt-get")]
    assert "Need to get 105 MB" in done.stdout
    assert "install --yes --no-install-recommends curl chromium redis-server" in install
    assert install.endswith("policy=101")


def test_the_compiler_of_the_kernels_is_among_them(box: Sandbox) -> None:
    """The tests compare the kernels with torch, so a compiler is needed."""
    run_tests(box)
    assert "cc" in left_out(box)


def test_the_rule_about_services_is_put_back(apt_box: Sandbox, tmp_path: Path) -> None:
    """An existing policy about starting services is restored, whether apt succeeded or not."""
    (tmp_path / "policy-rc.d").write_text("#!/bin/sh\nexit 42\n")
    apt_box.tool("apt-get", 'case "$*" in *--assume-no*) echo "Need to get 1 MB"; exit 1 ;; *) exit 100 ;; esac')
    done = run_tests(apt_box, "--yes")
    assert done.returncode == 1
    assert "apt could not install them" in done.stderr
    assert (tmp_path / "policy-rc.d").read_text() == "#!/bin/sh\nexit 42\n"
    assert sorted(path.name for path in tmp_path.glob("policy-rc.d*")) == ["policy-rc.d"]


@pytest.mark.linux
def test_no_service_starts_while_apt_still_works(apt_box: Sandbox, tmp_path: Path) -> None:
    """A connection that is lost ends the run, but not before apt has ended."""
    apt_box.tool(
        "apt-get",
        'case "$*" in *--assume-no*) echo "Need to get 1 MB"; exit 1 ;; esac\n'
        'kill -s HUP "$PPID"; n=0\n'
        'while [ "$n" -lt 40 ] && kill -0 "$PPID"; do n=$((n + 1)); sleep 0.05; done\n'
        f'[ ! -e "{tmp_path}/policy-rc.d" ] || echo "no service starts" >>"{apt_box.log}"',
    )
    done = subprocess.run(
        [*DEPLOY, str(apt_box.root / "deploy.sh"), "test", "--yes"],
        env=apt_box.environ(POLICY_RC_D=str(tmp_path / "policy-rc.d")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 129
    assert apt_box.calls() == ["no service starts"]
    assert not (tmp_path / "policy-rc.d").exists()


def test_services_are_not_left_for_the_next_boot(apt_box: Sandbox) -> None:
    """With systemd, services installed for tests are disabled."""
    apt_box.tool("systemctl", f'echo "systemctl $*" >>"{apt_box.log}"')
    run_tests(apt_box, "--yes")
    assert "systemctl disable redis-server" in apt_box.calls()


def test_stale_package_lists_are_renewed(apt_box: Sandbox) -> None:
    """Without package lists they are fetched, and the sizes requested again."""
    apt_box.tool(
        "apt-get",
        f'case "$*" in update*) touch "{apt_box.root}/lists" ;;\n'
        f'*--assume-no*) [ -e "{apt_box.root}/lists" ] && echo "Need to get 7 MB"; exit 1 ;; esac',
    )
    apt_box.tool("touch", ': >"$1"')
    assert "Need to get 7 MB" in run_tests(apt_box, "--yes").stdout


def test_without_a_terminal_there_is_no_question(apt_box: Sandbox) -> None:
    """A script is not asked."""
    assert run_tests(apt_box).returncode == 0
    assert any(call.startswith("apt-get install") for call in apt_box.calls())


def test_at_a_terminal_a_no_installs_nothing(apt_box: Sandbox) -> None:
    """ "No" ends the run and lists what the tests need."""
    screen = at_terminal(apt_box, answer=b"n\n")
    assert "Install them with apt?" in screen
    assert "Nothing was installed" in screen
    assert apt_box.calls() == []


def test_at_a_terminal_a_yes_installs(apt_box: Sandbox) -> None:
    """Enter means yes."""
    assert "Running the tests" in at_terminal(apt_box, answer=b"\n")


def test_yes_skips_the_question(apt_box: Sandbox) -> None:
    """With --yes nothing is asked."""
    assert "Install them with apt?" not in at_terminal(apt_box, "--yes", answer=b"")


def test_without_root_and_sudo_the_command_is_given(apt_box: Sandbox) -> None:
    """Without root and sudo, the command for the administrator is printed."""
    apt_box.tool("id", "echo 1000")
    done = run_tests(apt_box, "--yes")
    assert done.returncode == 1
    assert "Run as root: apt-get install --no-install-recommends curl chromium" in done.stderr


def test_without_root_and_sudo_the_rest_is_tested(apt_box: Sandbox) -> None:
    """Without --yes the possible tests run, and the command for the others is printed."""
    apt_box.tool("id", "echo 1000")
    done = run_tests(apt_box)
    assert done.returncode == 0
    assert "Run as root: apt-get install --no-install-recommends curl chromium" in done.stderr
    assert "chromium" in left_out(apt_box)


def test_sudo_is_used_without_root(apt_box: Sandbox) -> None:
    """Without a terminal, sudo must not ask for a password, so that the run never hangs."""
    apt_box.tool("id", "echo 1000")
    apt_box.tool("sudo", f'echo "sudo $*" >>"{apt_box.log}"; shift; exec "$@"')
    assert run_tests(apt_box, "--yes").returncode == 0
    assert any(call.startswith("sudo -n env") and " apt-get install " in call for call in apt_box.calls())


# --- the tests themselves ---


def test_the_tests_run_with_coverage(apt_box: Sandbox) -> None:
    """The whole suite is measured."""
    run_tests(apt_box)
    assert "-p pytest_cov" in apt_box.calls()[-1]
    assert "-m pytest" in apt_box.calls()[-1]
    assert "--cov" in apt_box.calls()[-1]


def test_arguments_go_to_pytest(apt_box: Sandbox) -> None:
    """A part of the suite can be selected, without coverage."""
    run_tests(apt_box, "--yes", "-k", "limits")
    assert apt_box.calls()[-1] == "-m pytest -k limits"


def selecting(box: Sandbox, *programs: str) -> Sandbox:
    """Have pytest list these programs as needed by the selected tests."""
    said = "; ".join(f"echo needs {program}" for program in programs) or ":"
    box.pip_answers(f'case "$*" in *--list-needs*) {said} ;; esac; exit 0')
    return box


def test_a_part_of_the_tests_installs_what_it_needs_and_no_more(apt_box: Sandbox) -> None:
    """The tests of the limits in Redis do not install a browser."""
    selecting(apt_box, "redis-server", "openssl")
    assert run_tests(apt_box, "--yes", "-k", "limits").returncode == 0
    (install,) = [call for call in apt_box.calls() if call.startswith("apt-get")]
    assert " --no-install-recommends redis-server openssl policy" in install
    assert apt_box.calls()[-1] == "-m pytest -k limits"


def test_a_part_of_the_tests_that_needs_no_program_installs_none(apt_box: Sandbox) -> None:
    """Nothing is asked."""
    selecting(apt_box)
    assert run_tests(apt_box, "tests/routes").returncode == 0
    assert [call for call in apt_box.calls() if call.startswith("apt-get")] == []


def test_a_part_of_the_tests_leaves_out_what_cannot_run(box: Sandbox) -> None:
    """Without apt, only the programs that the selected tests need are reported."""
    selecting(box, "redis-server")
    assert run_tests(box, "-k", "limits").returncode == 0
    assert box.calls()[-1] == "-m pytest -k limits --leave-out redis-server"


def test_the_exit_status_is_that_of_pytest(apt_box: Sandbox) -> None:
    """The exit status is passed on."""
    apt_box.pip_answers('case "$*" in *pytest*) exit 3 ;; *) exit 0 ;; esac')
    assert run_tests(apt_box).returncode == 3
