"""deploy/monitoring/install.sh: what it writes can be read by the programs, and what does not run gives way."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.deploy.production_box import DEPLOY, running
from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.linux

ROOT = Path(__file__).parents[3]
UNITS = ("prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter")
NEW, OLD = "WEBHOOK_URL=http://127.0.0.1:9/new\n", "WEBHOOK_URL=http://127.0.0.1:9/old\n"
CHECKS = ("promtool", "amtool", "prometheus-blackbox-exporter")
SYSTEMCTL = """
echo "systemctl $*" >>{folder}/calls
case "$1" in
restart)
    cat {etc}/avito-monitoring/alertmanager/alertmanager.yml >>{folder}/started-with
    if [ -e {folder}/waits ]; then rm {folder}/waits; echo >{folder}/there; exec sleep 600; fi
    [ ! -e {folder}/restart-fails ] ;;
esac
"""
PYTHON = """
case "$1" in -c) [ ! -e {folder}/silent ] ;; *) exec {python} "$@" ;; esac
"""


class Monitoring:
    """A copy of the scripts, which installs into a folder, and programs that stand in for the machine's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.etc, self.bin = folder, folder / "etc", folder / "bin"
        there = folder / "monitoring"
        shutil.copytree(ROOT / "deploy/monitoring", there)
        self.script = there / "install.sh"
        text = self.script.read_text().replace("/etc/", f"{self.etc}/").replace("PATIENCE=60", "PATIENCE=0")
        self.script.write_text(text)
        self.etc.mkdir()
        self.bin.mkdir()
        words = {"folder": folder, "etc": self.etc, "python": shutil.which("python3")}
        self.tool("id", "echo 0")
        self.tool("apt-get", "exit 0")
        self.tool("dpkg-query", "echo ' installed'")
        self.tool("systemctl", SYSTEMCTL.format(**words))
        self.tool("python3", PYTHON.format(**words))
        self.tool("runuser", f'echo "runuser $*" >>{folder}/calls; shift 3; exec "$@"')
        for name in CHECKS:
            self.tool(name, f"[ ! -e {folder}/{name}-rejects ]")
        self.settings(NEW)

    def tool(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    def settings(self, text: str) -> None:
        (self.etc / "avito-monitoring.env").write_text(text)

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def install(self, **how: int) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(self.script)]
        return subprocess.run(
            command, env=self.environ, capture_output=True, text=True, check=False, timeout=600, **how
        )

    def runs_with(self) -> str:
        """Return whose address the programs were last started with."""
        return (self.folder / "started-with").read_text().rpartition("http://127.0.0.1:9/")[2][:3]

    def files(self) -> dict[Path, str]:
        return {path: path.read_text() for path in self.etc.rglob("*") if path.is_file()}

    def calls(self, words: str) -> list[str]:
        return [call for call in (self.folder / "calls").read_text().splitlines() if words in call]


@pytest.fixture
def monitoring(tmp_path: Path) -> Monitoring:
    """A bare machine."""
    return Monitoring(tmp_path)


@pytest.fixture
def installed(monitoring: Monitoring) -> Monitoring:
    """One whose programs run, and whose settings have changed since."""
    monitoring.settings(OLD)
    done = monitoring.install()
    assert (done.returncode, monitoring.runs_with()) == (0, "old"), done.stderr
    monitoring.settings(NEW)
    return monitoring


def modes(folder: Path) -> dict[Path, int]:
    return {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize("checkout", [0o022, 0o027, 0o077])
def test_everybody_reads_the_configuration_whatever_the_umask(monitoring: Monitoring, checkout: int) -> None:
    """That of a hardened machine lets nobody else read what root writes, nor a checkout."""
    for path in (monitoring.script.parent, *monitoring.script.parent.rglob("*")):
        path.chmod(path.stat().st_mode & ~checkout)
    assert monitoring.install(umask=0o077).returncode == 0
    written = modes(monitoring.etc / "avito-monitoring") | modes(monitoring.etc / "systemd")
    assert {path.name for path in written} >= {"prometheus.yml", "alertmanager.yml", "avito-ai.conf"}
    assert written == {path: 0o755 if path.is_dir() else 0o644 for path in written}


def test_the_programs_own_user_tries_the_configuration(monitoring: Monitoring) -> None:
    """Root reads what they cannot."""
    assert monitoring.install().returncode == 0
    tried = [call.split()[4] for call in monitoring.calls("runuser -u prometheus -- ")]
    assert tried == list(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_rejected_changes_nothing(installed: Monitoring, name: str) -> None:
    """The programs run on, and were not restarted."""
    before = installed.files()
    (installed.folder / f"{name}-rejects").touch()
    done = installed.install()
    assert (done.returncode, installed.files()) == (1, before)
    assert (installed.runs_with(), len(installed.calls("systemctl restart"))) == ("old", 1)
    assert done.stderr.endswith("The previous configuration is restored.\n")


@pytest.mark.parametrize("fault", ["restart-fails", "silent"])
def test_what_does_not_run_gives_way_to_what_ran(installed: Monitoring, fault: str) -> None:
    """Prometheus may refuse at its start what passed its check; monitoring is not to end with that."""
    before = installed.files()
    (installed.folder / fault).touch()
    done = installed.install()
    assert (done.returncode, installed.files()) == (1, before)
    assert (installed.runs_with(), len(installed.calls("systemctl restart"))) == ("old", 3)
    assert done.stderr.endswith("The previous configuration is restored.\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_installation_that_is_ended_goes_back(installed: Monitoring, number: signal.Signals, status: int) -> None:
    """To the configuration with which the programs ran, and starts them with it."""
    before = installed.files()
    (installed.folder / "waits").touch()
    with running(
        [*DEPLOY, str(installed.script)], env=installed.environ, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        until((installed.folder / "there").exists, 120)
        os.killpg(process.pid, number)
        assert process.wait(120) == status
    assert (installed.files(), installed.runs_with()) == (before, "old")


def test_a_run_after_one_that_was_killed_remembers_what_ran(installed: Monitoring) -> None:
    """And not what had not proved itself."""
    before = installed.files()
    (installed.folder / "waits").touch()
    with running([*DEPLOY, str(installed.script)], env=installed.environ, start_new_session=True) as process:
        until((installed.folder / "there").exists, 120)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(120)
    assert installed.files() != before
    (installed.folder / "restart-fails").touch()
    assert installed.install().returncode == 1
    assert (installed.files(), installed.runs_with()) == (before, "old")


@pytest.mark.parametrize(("fault", "left"), [("restart-fails", True), ("promtool-rejects", False)])
def test_a_first_configuration_that_does_not_run_is_left_to_be_looked_at(
    monitoring: Monitoring, fault: str, left: bool
) -> None:
    """There is none before it; one that is rejected is removed, with the units."""
    (monitoring.folder / fault).touch()
    done = monitoring.install()
    assert (done.returncode, "restored" in done.stderr) == (1, False)
    assert (monitoring.etc / "avito-monitoring").exists() == left
    assert len(list(monitoring.etc.glob("systemd/system/*/avito-ai.conf"))) == (len(UNITS) if left else 0)


@pytest.mark.parametrize("there", [True, False])
def test_the_configuration_is_readable_when_it_is_rendered_alone(tmp_path: Path, there: bool) -> None:
    """On other systems, by hand; what an earlier run has closed is opened."""
    output, settings = tmp_path / "made/for/it", tmp_path / "monitoring.env"
    settings.write_text(NEW)
    if there:
        (output / "prometheus").mkdir(parents=True, mode=0o700)
        (output / "prometheus/prometheus.yml").write_text("of an earlier run")
        (output / "prometheus/prometheus.yml").chmod(0o600)
        (output / "own").mkdir()
        (output / "own").chmod(0o700)
    script = ["python3", str(ROOT / "deploy/monitoring/render.py"), "--settings", str(settings)]
    subprocess.run([*script, "--output", str(output)], umask=0o077, check=True, timeout=600)
    found = modes(output) | ({} if there else modes(tmp_path / "made"))
    own = output / "own"
    assert found == {path: 0o700 if path == own else 0o755 if path.is_dir() else 0o644 for path in found}
