"""The systemd unit, checked by systemd's own tools and against the rest of the tree."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.reload import PATIENCE as RELOAD_SECONDS
from tests.system_programs import program

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "avito-ai.service"
HIGHEST_EXPOSURE = 2.0
PREFIX = "/opt/avito-ai"


def lines():
    """Return name and value of each assignment in the unit."""
    text = UNIT.read_text()
    return [tuple(line.split("=", 1)) for line in text.splitlines() if re.match(r"[A-Za-z]+=", line)]


def value(name):
    """Return the one value of a name."""
    (found,) = [v for n, v in lines() if n == name]
    return found


def seconds(text):
    """Return a span of time as systemd writes it."""
    number, unit = re.fullmatch(r"(\d+)(min|h|)", text).groups()
    return int(number) * {"": 1, "min": 60, "h": 3600}[unit]


@pytest.mark.parametrize("unit", [UNIT, *sorted((ROOT / "deploy/systemd").glob("*.service"))], ids=lambda p: p.name)
@pytest.mark.needs("systemd-analyze")
def test_systemd_has_nothing_to_say_about_it(unit, tmp_path):
    """No unknown key or wrong value; the programs it runs exist."""
    installed = tmp_path / "current"
    for file in ("deploy", ".venv/bin/python", "../vllm/bin/vllm"):
        (installed / file).parent.mkdir(parents=True, exist_ok=True)
        (installed / file).symlink_to(ROOT / file if file == "deploy" else sys.executable)
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(PREFIX, str(tmp_path)))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", copy], capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.needs("systemd-analyze")
def test_exposure_is_low():
    """What `systemd-analyze security` adds up is at most 2.0 of 10, and about what the operator's document says.

    A newer systemd may weigh differently.
    """
    command = [program("systemd-analyze"), "security", "--offline=true", str(UNIT)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    exposure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said).group(1))
    documented = re.search(r"exposure of ([\d.]+) of 10", (ROOT / "docs/runbook.md").read_text())
    assert exposure <= HIGHEST_EXPOSURE
    assert abs(exposure - float(documented.group(1))) <= 0.3


def test_cuda_can_work_in_it():
    """No option denies CUDA its devices, generated code or /proc."""
    found = dict(lines())
    assert not {"PrivateDevices", "MemoryDenyWriteExecute", "PrivateUsers", "NoExecPaths"} & set(found)
    assert found["ProcSubset"] == "all"
    assert found["DeviceAllow"] == "char-nvidia* rwm"


def test_compiled_kernels_are_kept_over_restarts():
    """Triton writes them into the unit's own cache directory, from where they can be loaded as programs."""
    (folder,) = [v.partition("=")[2] for n, v in lines() if n == "Environment" and v.startswith("TRITON_CACHE_DIR=")]
    assert folder == f"/var/cache/{value('CacheDirectory')}/triton"
    assert not set(dict(lines())) & {"TemporaryFileSystem", "InaccessiblePaths", "ReadOnlyPaths"}


def test_a_reload_finds_the_release_by_the_link():
    """Interpreter, folder and PWD go through `current`, and there is no EnvironmentFile."""
    assert (
        value("ExecStart") == f"{PREFIX}/current/.venv/bin/python -m gunicorn -c gunicorn_config.py app_production:app"
    )
    assert value("WorkingDirectory") == f"{PREFIX}/current"
    environment = [v for n, v in lines() if n == "Environment"]
    assert f"PWD={PREFIX}/current" in environment[0].split()
    assert "EnvironmentFile" not in dict(lines())


def test_times_fit_each_other():
    """A reload times out by itself before systemd's limit; a stop may last longer than the default drain."""
    assert seconds(value("TimeoutStartSec")) > RELOAD_SECONDS
    assert seconds(value("TimeoutStopSec")) > 60 + 5


class Machine:
    """A machine for gpu_nodes.sh: /sys and /proc in a folder, and an nvidia-modprobe that records its calls."""

    def __init__(self, folder):
        self.folder, self.notes, self.bin = folder, folder / "notes", folder / "bin"
        self.bin.mkdir()
        for name in ("bash", "env", "grep"):
            (self.bin / name).symlink_to(shutil.which(name))

    def has_card(self, vendor, number=0):
        device = self.folder / f"sys/bus/pci/devices/0000:0{number}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")

    def has_driver(self, cards):
        for number in range(cards):
            (self.folder / f"proc/driver/nvidia/gpus/{number}").mkdir(parents=True)
        modprobe = self.bin / "nvidia-modprobe"
        modprobe.write_text(f'#!/bin/sh\necho "$*" >>"{self.notes}"\n')
        modprobe.chmod(0o755)

    def run(self):
        environ = {"PATH": str(self.bin), "AVITO_AI_ROOT": str(self.folder)}
        script = ROOT / "deploy/gpu_nodes.sh"
        done = subprocess.run([script], env=environ, capture_output=True, text=True, check=True, timeout=600)
        return done.stderr, self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def machine(tmp_path):
    """A machine without a card."""
    return Machine(tmp_path)


def test_nodes_are_made_for_each_card(machine):
    """One node per card, and the shared ones."""
    for number in range(2):
        machine.has_card("0x10de", number)
    machine.has_driver(2)
    assert machine.run() == ("", ["-c 0", "-c 0", "-c 1", "-u -c 0"])


def test_machine_without_a_card_is_left_alone(machine):
    """Cards of other vendors are ignored."""
    machine.has_card("0x1af4")
    machine.has_driver(0)
    assert machine.run() == ("", [])


def test_missing_tool_is_a_message_and_no_failure(machine):
    """Without nvidia-modprobe something else may have created the nodes."""
    machine.has_card("0x10de")
    complaint, notes = machine.run()
    assert "no nvidia-modprobe" in complaint
    assert notes == []


@pytest.mark.parametrize("timer", sorted((ROOT / "deploy/systemd").glob("*.timer")), ids=lambda path: path.name)
@pytest.mark.needs("systemd-analyze")
def test_a_timer_has_a_service_and_a_time(timer, tmp_path):
    """It starts the service of its name, which is installed with it, at times that systemd understands."""
    assert timer.with_suffix(".service").exists()
    assert f" {timer.stem}" in re.search(
        r"^TIMED_UNITS=\((.*)\)", (ROOT / "deploy/lib/unit.sh").read_text(), re.M
    ).expand(r" \1")
    for when in re.findall(r"^OnCalendar=(.*)", timer.read_text(), re.MULTILINE):
        command = [program("systemd-analyze"), "calendar", when]
        assert subprocess.run(command, capture_output=True, check=False, timeout=600).returncode == 0
