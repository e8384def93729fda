"""`deploy.sh production` that fails or is interrupted: the old release keeps serving, and the reason is shown."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess

import pytest

from tests.deploy.production_box import DEPLOY, ProductionBox, running
from tests.e2e.gunicorn_process import until

pytestmark = [pytest.mark.slow, pytest.mark.linux]


def fail(box: ProductionBox, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a production that must fail and leave the previous release serving."""
    before = box.current
    done = box.run("production", *words)
    assert done.returncode == 1
    assert "Error: " in done.stderr
    assert box.current == box.serving == before
    return done


def next_release(box: ProductionBox, instruction: str) -> str:
    """Change the checkout and set how its release behaves; return the current release."""
    box.change()
    box.say(instruction)
    return box.current


def test_a_release_that_fails_its_smoke_tests_is_not_served(box: ProductionBox) -> None:
    """The service is not changed."""
    next_release(box, "smoke-fails")
    assert "failed its smoke tests" in fail(box).stderr
    assert not box.asked("systemctl reload")


def test_a_folder_that_cannot_be_read_is_named_before_the_switch(box: ProductionBox) -> None:
    """The result of the sandbox check is shown, and the settings are restored."""
    box.say("check-fails")
    box.say(
        "check-report", "Error: VISION_MODEL_DIR=/srv/m: the user avito-ai cannot read /srv/m: Permission denied.\n"
    )
    assert "VISION_MODEL_DIR=/srv/m: the user avito-ai cannot read" in fail(box, "TEMPERATURE=0.1").stderr
    assert "TEMPERATURE=0.1" not in box.settings


def test_settings_that_a_full_disk_does_not_take_back_are_not_lost(box: ProductionBox) -> None:
    """The file stays whole, the run does not claim that it restored it, and what was before is kept for good."""
    before, file = box.settings, box.system / "etc/avito-ai/.env"
    box.change()
    box.tool("runuser", f'ln -s /dev/full "{file}.new"; exit 1')
    done = fail(box, "TEMPERATURE=0.1")
    assert "are restored" not in done.stdout
    assert "could not be restored" in done.stderr
    assert box.settings == [*before, "TEMPERATURE=0.1"]
    assert not file.is_symlink()
    (kept,) = (box.prefix / "deploy-state").glob("settings-before.*")
    assert [line for line in kept.read_text().splitlines() if line and line[0] != "#"] == before


def test_settings_that_cannot_be_copied_are_not_taken_for_those_before(box: ProductionBox) -> None:
    """A copy that a full disk cut off would be restored as the settings."""
    before = box.settings
    (box.prefix / "deploy-state/settings-before.new").symlink_to("/dev/full")
    box.run("production", "TEMPERATURE=0.1")
    assert box.settings == before


def test_mistakes_in_the_settings_are_all_shown_and_taken_back(box: ProductionBox) -> None:
    """The release's own code validates the settings."""
    said = fail(box, "TEMPERATURE=hot", "MAX_WAITING=many").stderr
    assert "TEMPERATURE=" in said
    assert "MAX_WAITING=" in said
    assert not any(line.startswith("TEMPERATURE") for line in box.settings)


def test_packages_that_cannot_be_installed_stop_the_run(box: ProductionBox) -> None:
    """An unreachable package index stops nothing, and the next run starts again."""
    with (box.root / "requirements.txt").open("a") as file:
        file.write("# changed\n")
    venv_python = box.venv_python.read_text()
    box.venv_python.write_text(venv_python.replace("; exit 0 ;;", "; exit 1 ;;"))
    fail(box)
    box.venv_python.write_text(venv_python)
    assert box.run("production").returncode == 0
    assert len(box.releases) == 2


def test_a_hand_over_that_fails_goes_back_by_itself(box: ProductionBox) -> None:
    """The previous release keeps serving without downtime, and the reason is shown."""
    before = next_release(box, "reload-fails")
    box.say("good", str(box.prefix / "releases" / before))
    done = fail(box)
    assert "the weights are broken" in done.stderr
    assert "it was never stopped" in done.stdout


def test_a_release_that_answers_wrongly_is_replaced_by_the_one_before(box: ProductionBox) -> None:
    """Readiness is not enough: each model must answer, else the previous release takes over again."""
    before = next_release(box, "deaf")
    assert f"{before} serves again" in fail(box).stdout
    assert box.asked("systemctl reload avito-ai.service") == 2


def test_settings_that_answer_wrongly_are_taken_back_from_the_process_too(box: ProductionBox) -> None:
    """The same release serves on, by a process that has read the settings of before."""
    box.say("deaf")
    done = fail(box, "LOG_LEVEL=DEBUG")
    assert "LOG_LEVEL=DEBUG" not in box.settings
    assert box.asked("systemctl reload avito-ai.service") == 2
    assert "serves again" in done.stdout
    assert "never stopped" not in done.stdout
    assert "is ready and does not answer as it should" in done.stderr


def test_an_address_that_is_taken_back_needs_a_restart_too(box: ProductionBox) -> None:
    """A reload would keep the socket of the new address."""
    box.say("listens", "127.0.0.1 8085\n")
    box.say("deaf")
    restarts = box.asked("systemctl restart avito-ai.service")
    fail(box, "HOST=127.0.0.1")
    assert box.asked("systemctl reload avito-ai.service") == 1
    assert box.asked("systemctl restart avito-ai.service") == restarts + 1


def test_a_release_that_failed_can_be_tried_again(box: ProductionBox) -> None:
    """Once the cause is gone, the same tree is served without being installed again."""
    next_release(box, "deaf")
    fail(box)
    box.unsay("deaf")
    assert box.run("production").returncode == 0
    assert box.asked("smoke of") == 1
    assert box.current == box.serving


def test_a_failed_restart_brings_the_old_address_back(box: ProductionBox) -> None:
    """If the new settings required a restart, the service is restarted with the old ones."""
    before = next_release(box, "restart-fails")
    box.say("good", str(box.prefix / "releases" / before))
    fail(box, "PORT=9000")
    assert "PORT=9000" not in box.settings


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_in_the_middle_leaves_the_old_release_serving(box: ProductionBox, number: int, status: int) -> None:
    """A signal during the hand-over restores the previous state at once."""
    before = next_release(box, "reload-waits")
    with box.started("production") as process:
        until((box.control / "waiting").exists, 120)
        os.kill(process.pid, number)
        assert process.wait(120) == status
    assert box.current == box.serving == before


def test_control_c_at_a_terminal_leaves_the_old_release_serving(box: ProductionBox) -> None:
    """Ctrl+C reaches the whole foreground process group, and the rollback still works."""
    before = next_release(box, "reload-waits")
    main, terminal = pty.openpty()
    command = [*DEPLOY, str(box.root / "deploy.sh"), "production"]
    own_terminal = [str(shutil.which("setsid")), "--ctty", *command]
    with running(own_terminal, env=box.environ(), stdin=terminal) as process:
        os.close(terminal)
        until((box.control / "waiting").exists, 120)
        os.write(main, b"\x03")
        assert process.wait(120) == 130
    os.close(main)
    assert box.current == box.serving == before


def test_only_one_run_at_a_time(box: ProductionBox) -> None:
    """A second one exits at once and changes nothing."""
    next_release(box, "reload-waits")
    with box.started("production") as process:
        until((box.control / "waiting").exists, 120)
        second = box.run("production")
        os.kill(process.pid, signal.SIGTERM)
        process.wait(120)
    assert second.returncode == 1
    assert "Another deploy.sh is running" in second.stderr


def test_too_small_a_disk_is_noticed_first(box: ProductionBox) -> None:
    """Nothing is copied without enough disk space."""
    box.change()
    box.tool("df", "echo header; echo /dev/x 1000000 900000 10240 99% /")
    assert "Not enough disk space" in fail(box).stderr
    assert len(box.releases) == 1
