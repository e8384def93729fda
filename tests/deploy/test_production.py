"""`deploy.sh production`: installation on a bare machine, and switching releases."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.deploy.production_box import ProductionBox
from tests.sandbox import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.linux]


def tree(folder: Path) -> list[str]:
    """Return every path below a folder with its content."""
    found = []
    for path in sorted(folder.rglob("*")):
        held = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        found.append(f"{path} {held!r}")
    return found


@pytest.mark.parametrize("system", [("debian", "11"), ("ubuntu", "22.04"), ("fedora", "41")])
def test_another_system_is_refused_with_a_clear_message(bare: ProductionBox, system: tuple[str, str]) -> None:
    """Only Debian 12 and Ubuntu 24.04, or newer, are supported; elsewhere nothing is created."""
    bare.os_release(*system)
    done = bare.production()
    assert done.returncode == 1
    assert "Debian 12 or newer, or Ubuntu 24.04 or newer" in done.stderr
    assert not bare.prefix.exists()


@pytest.mark.parametrize("system", [("debian", "13"), ("ubuntu", "24.04"), ("ubuntu", "26.04")])
def test_newer_systems_are_taken(bare: ProductionBox, system: tuple[str, str]) -> None:
    """Versions are compared as numbers, not as text."""
    bare.os_release(*system)
    assert (
        bare.run("production", "--dry-run", "DEVICE=cpu", "VIBE_MODEL_DIR=demo", "VISION_MODEL_DIR=demo").returncode
        == 0
    )


def test_a_system_without_systemd_is_refused(bare: ProductionBox) -> None:
    """A container without systemd is refused."""
    (bare.system / "run/systemd/system").rmdir()
    assert "is not run by systemd" in bare.production().stderr


def test_without_root_the_command_is_printed(bare: ProductionBox) -> None:
    """Without root, nothing is started that would fail half-way."""
    bare.tool("id", "echo 1000")
    done = bare.production()
    assert done.returncode == 1
    assert "sudo ./deploy.sh production" in done.stderr


def test_a_machine_without_gpu_must_be_declared(bare: ProductionBox) -> None:
    """The CPU must be set explicitly; the command is given before anything is downloaded."""
    done = bare.run("production", "VIBE_MODEL_DIR=demo", "VISION_MODEL_DIR=demo")
    assert done.returncode == 1
    assert "no NVIDIA GPU" in done.stderr
    assert "./deploy.sh production DEVICE=cpu" in done.stderr
    assert not bare.prefix.exists()


def test_a_gpu_for_one_model_needs_a_gpu(bare: ProductionBox) -> None:
    """DEVICE=cpu is for the model without a device of its own."""
    demos = ("VIBE_MODEL_DIR=demo", "VISION_MODEL_DIR=demo")
    assert "no NVIDIA GPU" in bare.run("production", "DEVICE=cpu", "VISION_DEVICE=cuda:1", *demos).stderr
    on_cpu = bare.run("production", "--dry-run", "VIBE_DEVICE=cpu", "VISION_DEVICE=cpu", *demos)
    assert on_cpu.returncode == 0


def test_a_card_without_its_driver_has_its_own_message(bare: ProductionBox) -> None:
    """A missing driver has a different remedy from a missing card."""
    device = bare.system / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    assert "NVIDIA card, but no driver" in bare.run("production").stderr


def test_a_driver_that_shows_no_gpu_is_named(bare: ProductionBox) -> None:
    """The message contains nvidia-smi's own output."""
    bare.tool("nvidia-smi", 'echo "Driver/library version mismatch"; exit 9')
    assert "Driver/library version mismatch" in bare.run("production").stderr


def test_a_gpu_that_is_not_there_is_refused(bare: ProductionBox) -> None:
    """CUDA_VISIBLE_DEVICES must be a GPU that nvidia-smi lists."""
    bare.tool("nvidia-smi", "echo 'GPU 0: NVIDIA H200 (UUID: GPU-aaaa)'")
    done = bare.run("production", "CUDA_VISIBLE_DEVICES=3", "VIBE_MODEL_DIR=demo", "VISION_MODEL_DIR=demo")
    assert "CUDA_VISIBLE_DEVICES=3: there is no such GPU" in done.stderr


def test_a_missing_model_folder_stops_early(bare: ProductionBox) -> None:
    """The message has the setting, the folder and the demo, before anything is downloaded."""
    done = bare.run("production", "DEVICE=cpu", "VIBE_MODEL_DIR=demo", "VISION_MODEL_DIR=/no/such/folder")
    assert "VISION_MODEL_DIR=/no/such/folder: there is no such folder" in done.stderr
    assert not bare.prefix.exists()


def test_a_port_of_another_program_is_named(bare: ProductionBox) -> None:
    """The suggestion is an argument of the same command."""
    port = '*"deploy.probe port"*) echo "taken Port 8085 is held by nginx (process 7)."; exit ;;'
    bare.python(cases=port + '*"realpath(sys.executable)"*) echo /usr/bin/python3; exit ;;')
    assert "held by nginx (process 7)" in bare.production().stderr


def test_a_python_in_a_home_folder_is_not_used(bare: ProductionBox) -> None:
    """The service's user cannot run it."""
    bare.say("python-lies-at", "/home/operator/.pyenv/versions/3.11.7/bin/python3")
    done = bare.production()
    assert done.returncode == 1
    assert bare.asked("apt-get") > 0
    assert "outside of home folders" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--what"], "has no option '--what'"),
        (["NOTHING=1"], "'NOTHING' is not a setting"),
        (["--domain"], "--domain needs a value"),
        (["--domain", "nowhere"], "is not a host name"),
        (["--domain", "a..b"], "is not a host name"),
        (["--email", "a@b.example"], "require --domain"),
        (["--domain", "a.example", "--certificate", "/c"], "requires --certificate-key"),
        (["--domain", "a.example", "--certificate", "/no/c", "--certificate-key", "/no/k"], "/no/c cannot be read"),
    ],
)
def test_a_wrong_argument_is_refused(bare: ProductionBox, words: list[str], sentence: str) -> None:
    """No argument is silently ignored."""
    done = bare.run("production", *words)
    assert done.returncode == 1
    assert sentence in done.stderr


def documented() -> list[str]:
    """Return the arguments of each command of `deploy.sh production` in the documents."""
    pages = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
    found = (re.findall(r"deploy\.sh production([^`|;&\n]*)", page.read_text(encoding="utf-8")) for page in pages)
    return sorted({words.split(" #")[0].strip() for page in found for words in page})


@pytest.mark.parametrize("words", documented())
def test_a_documented_command_is_taken(bare: ProductionBox, words: str) -> None:
    """Its settings and options are those of the script, whatever else stops it on this machine."""
    told = bare.run("production", "--dry-run", *shlex.split(words.replace("...", ""))).stderr
    assert "is not a setting" not in told
    assert "has no option" not in told


def test_a_dry_run_changes_nothing(bare: ProductionBox) -> None:
    """The plan has user, settings, release, checks and unit; nothing is created or requested."""
    before = tree(bare.system)
    done = bare.production("--dry-run", "--domain", "ai.example", "--firewall")
    assert done.returncode == 0
    for words in ("system user avito-ai", "/etc/avito-ai/.env", "smoke tests", "sandbox", "avito-ai.service", "nginx"):
        assert words in done.stdout
    assert tree(bare.system) == before
    assert [call for call in bare.calls() if "show" not in call] == []


def test_a_dry_run_shows_the_plan_where_production_would_stop(bare: ProductionBox) -> None:
    """In a container, or on another system, the steps are shown behind a warning."""
    (bare.system / "run/systemd/system").rmdir()
    (bare.bin / "systemctl").unlink()
    bare.os_release("fedora", "43")
    done = bare.production("--dry-run")
    assert done.returncode == 0
    assert "Here production would stop: Production requires Debian" in done.stderr
    assert "Here production would stop: This system is not run by systemd" in done.stderr
    assert "would install and start avito-ai.service" in done.stdout


def test_a_dry_run_sees_that_nothing_is_to_do(box: ProductionBox) -> None:
    """If the release already serves, the plan says so."""
    before = tree(box.system)
    done = box.run("production", "--dry-run")
    assert "would leave the service as it is" in done.stdout
    assert tree(box.system) == before


def test_a_dry_run_without_root_makes_no_plan_of_what_it_cannot_see(box: ProductionBox) -> None:
    """It would not find the settings, and take the service for another program at the port."""
    box.tool("id", "echo 1000")
    done = box.run("production", "--dry-run")
    assert (done.returncode, "sudo ./deploy.sh production --dry-run" in done.stderr) == (1, True)
    assert "would" not in done.stdout


def test_a_bare_machine_gets_the_service(box: ProductionBox) -> None:
    """User, folders, settings, release and units are in place, and the release of this tree serves."""
    (release,) = box.releases
    assert box.current == box.serving == release
    assert box.settings == ["ENVIRONMENT=production", "DEVICE=cpu", "VIBE_MODEL_DIR=demo", "VISION_MODEL_DIR=demo"]
    assert (box.system / "etc/avito-ai/.env").stat().st_mode & 0o777 == 0o640
    link = box.prefix / "releases" / release / ".env"
    assert link.readlink() == box.system / "etc/avito-ai/.env"
    units = box.system / "etc/systemd/system"
    assert {path.name for path in units.iterdir()} == {
        "avito-ai.service",
        "avito-ai-explain@.service",
        *(f"avito-ai-{name}.{kind}" for name in ("health", "backup", "backup-test") for kind in ("service", "timer")),
    }
    assert "Creating the release" in (box.system / "var/log/avito-ai-deploy.log").read_text()


def test_a_variable_of_these_scripts_is_no_setting_of_the_environment(box: ProductionBox) -> None:
    """Only what the environment has is warned of."""
    assert "STATE_DIR" not in box.run("production", "--dry-run").stderr
    assert "STATE_DIR is set in the environment" in box.run("production", "--dry-run", STATE_DIR="/srv").stderr


def test_the_same_again_restarts_nothing(box: ProductionBox) -> None:
    """A second run finds release, settings and service unchanged."""
    done = box.run("production")
    assert done.returncode == 0
    assert "nothing is restarted" in done.stdout
    assert len(box.releases) == 1
    assert not any(map(box.asked, ("systemctl reload", "systemctl restart", "pip install")))


def test_the_release_is_tested_before_it_is_checked_and_served(bare: ProductionBox) -> None:
    """Packages, kernels, smoke tests, sandbox check, start, and answers, in this order."""
    assert bare.production().returncode == 0
    steps = ["pip install", "kernels in", "smoke of", "start avito-ai-check", "restart avito-ai", "asked for", "enable"]
    calls = "\n".join(bare.calls())
    assert [calls.index(step) for step in steps] == sorted(calls.index(step) for step in steps)


def test_the_check_runs_in_the_sandbox_of_the_unit(box: ProductionBox) -> None:
    """The check's unit has the service's user and limits, but neither its start command nor its runtime directory."""
    box.change()
    assert box.run("production").returncode == 0
    unit = (box.control / "checked-unit").read_text()
    for line in ("User=avito-ai", "NoNewPrivileges=yes", "ProtectSystem=strict", "DevicePolicy=closed", "Type=oneshot"):
        assert line in unit.splitlines()
    for word in ("gunicorn", "RuntimeDirectory", "WatchdogSec", "[Install]", "ExecReload", "/current"):
        assert word not in unit
    assert f"{box.current}/.venv/bin/python -m deploy.sandbox_check" in unit
    assert not (box.system / "run/systemd/system/avito-ai-check.service").exists()


@pytest.mark.parametrize(("version", "installed"), [("252 (252.38-1)", False), ("255 (255.4-1ubuntu8)", True)])
def test_restarts_back_off_where_systemd_can(bare: ProductionBox, version: str, installed: bool) -> None:
    """Options that an older systemd would warn of are in a drop-in that it does not get."""
    bare.say("systemd", f"systemd {version}\n+PAM +AUDIT\n")
    assert bare.production().returncode == 0
    drop_in = bare.system / "etc/systemd/system/avito-ai.service.d/back-off.conf"
    assert drop_in.exists() is installed


def test_the_settings_of_the_checkout_are_taken_along(bare: ProductionBox) -> None:
    """The .env of a checkout becomes the settings file."""
    (bare.root / ".env").write_text(
        "PORT=8085\nDEVICE=cpu\nVIBE_MODEL_DIR=demo\nVISION_MODEL_DIR=demo\nTEMPERATURE=0.5\n"
    )
    assert bare.run("production").returncode == 0
    assert "TEMPERATURE=0.5" in bare.settings
    assert "ENVIRONMENT=production" in bare.settings


def test_settings_that_are_not_for_production_are_refused(bare: ProductionBox) -> None:
    """A settings file with another ENVIRONMENT is not silently overruled."""
    (bare.system / "etc/avito-ai").mkdir()
    (bare.system / "etc/avito-ai/.env").write_text("ENVIRONMENT=development\n")
    done = bare.production()
    assert done.returncode == 1
    assert "has ENVIRONMENT=development" in done.stderr
    assert bare.settings == ["ENVIRONMENT=development"]


def test_a_setting_in_the_environment_is_not_lost_in_silence(box: ProductionBox) -> None:
    """It works for development only; the message has the argument that stores it."""
    done = box.run("production", MAX_WAITING="7")
    assert "MAX_WAITING is set in the environment and has no effect here" in done.stderr
    assert "MAX_WAITING=7" not in box.settings


def test_a_first_release_that_does_not_start_leaves_nothing_running(bare: ProductionBox) -> None:
    """Without an earlier release the service is stopped; the reason from the journal is shown."""
    bare.say("restart-fails")
    done = bare.production()
    assert done.returncode == 1
    assert "the weights are broken" in done.stderr
    assert "no previous release" in done.stdout
    assert bare.serving is None
    assert not (bare.prefix / "current").is_symlink()


@pytest.mark.needs("git")
@pytest.mark.parametrize("with_git", [True, False])
def test_a_release_has_nothing_of_what_was_made_in_the_checkout(box: ProductionBox, with_git: bool) -> None:
    """Anybody can read a release: no backup, no state, no settings; and none of them makes another release."""
    if with_git:
        box.commit()
    made = ("backups/today/env", ".state/avito-ai.db", ".env.old", ".env", ".venv-cuda/pyvenv.cfg", "deploy/.env.mine")
    for name in made:
        (box.root / name).parent.mkdir(parents=True, exist_ok=True)
        (box.root / name).write_text(f"ADMIN_KEY={name}\n")
    assert "nothing is restarted" in box.run("production").stdout
    (box.root / "new.py").write_text("# not committed yet\n")
    assert box.run("production").returncode == 0
    release = box.prefix / "releases" / box.current
    assert [name for name in made if name != ".env" and (release / name).exists()] == []
    assert (release / ".env.example").exists()
    assert (release / "new.py").exists()


@pytest.mark.needs("git")
def test_what_git_ignores_is_in_no_release(box: ProductionBox) -> None:
    """Also what nobody but the operator's .gitignore names; a file that is gone from the checkout is none of it."""
    with (box.root / ".gitignore").open("a") as file:
        file.write("/mine/\n")
    box.commit()
    (box.root / "mine").mkdir()
    (box.root / "mine/key").write_text("secret\n")
    (box.root / "requirements-test.txt").unlink()
    done = box.run("production")
    assert done.returncode == 0, done.stderr
    release = box.prefix / "releases" / box.current
    assert not (release / "mine").exists()
    assert not (release / "requirements-test.txt").exists()


@pytest.mark.parametrize("link", ["releases/1", "/opt/avito-ai/releases/1"])
def test_a_release_that_was_made_by_hand_stays_until_the_next_one_serves(box: ProductionBox, link: str) -> None:
    """Whatever the link to it looks like: it is the one to return to."""
    (box.prefix / "releases" / box.current).rename(box.prefix / "releases/1")
    (box.prefix / "releases/1/.release/complete").unlink()
    (box.prefix / "current").unlink()
    (box.prefix / "current").symlink_to(f"{box.system}{link}" if link.startswith("/") else link)
    number = (box.control / "pid").read_text().strip()
    (box.system / "proc" / number / "cwd").unlink()
    (box.system / "proc" / number / "cwd").symlink_to(box.prefix / "releases/1")
    box.say("reload-fails")
    done = box.run("production")
    assert done.returncode == 1
    assert box.serving == "1"
    assert (box.prefix / "releases/1/config.py").exists()
    box.unsay("reload-fails")
    assert box.run("production").returncode == 0
    assert box.serving == box.current != "1"


def test_a_changed_tree_takes_over_by_a_reload(box: ProductionBox) -> None:
    """The next release shares the previous one's packages and takes over."""
    before = box.current
    box.change()
    done = box.run("production")
    assert done.returncode == 0
    assert box.current == box.serving != before
    assert box.asked("systemctl reload avito-ai.service") == 1
    assert not box.asked("pip install")
    assert "reusing its virtual environment" in done.stdout


def test_changed_packages_are_installed_anew(box: ProductionBox) -> None:
    """A virtual environment is shared only with a release of the same packages."""
    with (box.root / "requirements.txt").open("a") as file:
        file.write("# changed\n")
    assert box.run("production").returncode == 0
    assert box.asked("pip install") == 1


def test_a_changed_setting_is_taken_up_by_a_reload(box: ProductionBox) -> None:
    """The same tree with other settings is reloaded."""
    assert box.run("production", "MAX_WAITING=7").returncode == 0
    assert "MAX_WAITING=7" in box.settings
    assert box.asked("systemctl reload avito-ai.service") == 1


def test_a_changed_port_needs_a_restart(box: ProductionBox) -> None:
    """A reload keeps the socket, and therefore the old address."""
    done = box.run("production", "PORT=9000")
    assert done.returncode == 0
    assert box.asked("systemctl restart avito-ai.service") == 1
    assert "which requires a restart" in done.stdout


def test_old_releases_are_removed(box: ProductionBox) -> None:
    """The current one, the previous one and one more are kept."""
    first = box.current
    for number in range(3):
        box.change(f"# {number}\n")
        box.tool("date", f'case "$*" in *%Y%m%d*) echo 2099010{number}-000000 ;; *) exec /bin/date "$@" ;; esac')
        assert box.run("production").returncode == 0
    assert len(box.releases) == 3
    assert first not in box.releases
    assert box.current == box.releases[-1]
