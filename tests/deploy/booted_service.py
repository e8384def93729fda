"""The service as `./deploy.sh production` installs it in a booted system, and queries of both."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.deploy.systemd_box import SystemdBox
from tests.e2e.gunicorn_process import until

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = "/srv/avito-ai"
READY_WITHIN = 300.0
SETTINGS = {
    "DEVICE": "cpu",
    "VIBE_MODEL_DIR": "demo",
    "VISION_MODEL_DIR": "demo",
    "HOST": "127.0.0.1",
    "RATE_LIMIT_PER_MINUTE": "0",
    "RATE_LIMIT_PER_HOUR": "0",
    "MAX_TOKENS_AVIBE": "8",
    "MAX_PROMPT_LENGTH": "1001",
    "STALL_SECONDS": "10",
}
URL = "http://127.0.0.1:8085"


def copy_tree(folder: Path) -> Path:
    """Return a folder with the files of this checkout, as a clone would have them."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True, timeout=600).stdout.split("\0")
    for file in filter(None, files):
        if (ROOT / file).exists() and not file.startswith("benchmarks/results/"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
    return folder


class BootedService:
    """avito-ai.service in a box."""

    def __init__(self, box: SystemdBox) -> None:
        self.box = box

    # --- what an operator does ---

    def deploy(self, command: str = "production", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the checkout's deploy.sh."""
        return self.box.run(f"cd {CHECKOUT} && ./deploy.sh {command}", check=check)

    def systemctl(self, verb: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.box.run(f"systemctl {verb} avito-ai", check=check)

    def set(self, name: str, value: str) -> None:
        """Change a line of the settings file."""
        self.box.run(f"sed -i 's/^{name}=.*/{name}={value}/' /etc/avito-ai/.env && grep -q ^{name}= /etc/avito-ai/.env")

    def append(self, file: str, text: str) -> None:
        """Append lines to a file in the box without changing the seconds of its time stamps."""
        with (self.box.root / file.lstrip("/")).open("a", encoding="utf-8") as end:
            end.write(text)

    # --- what is seen from outside ---

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.box.text(f"systemctl show --property {name} --value avito-ai")

    @property
    def master(self) -> int:
        return int(self.show("MainPID"))

    @property
    def worker(self) -> int:
        return int(self.box.text(f"pgrep --parent {self.master} | tail -n 1"))

    @property
    def restarts(self) -> int:
        return int(self.show("NRestarts"))

    @property
    def ready(self) -> bool:
        return self.box.run(f"curl -sf -m 5 {URL}/api/health/ready", check=False, timeout=30).returncode == 0

    def await_ready(self) -> None:
        until(lambda: self.show("ActiveState") == "active" and self.ready, READY_WITHIN, every=0.5)

    def await_restart(self, before: int) -> None:
        """Wait until systemd has restarted the service and it is ready."""
        until(lambda: self.restarts > before, READY_WITHIN, every=0.5)
        self.await_ready()

    def running(self) -> dict[str, str]:
        """Return release, virtual environment and a setting, as the running process shows them."""
        long = json.dumps({"prompt": "x" * 1500})
        refusal = self.box.text(
            f"curl -s -m 30 {URL}/api/v1/text/generate -H 'Content-Type: application/json' -d '{long}'"
        )
        metric = self.box.text(f"curl -s -m 30 {URL}/metrics | grep ^avito_ai_build_info")
        mapped = self.box.text(f"grep -o '/opt/avito-ai/releases/[^/]*/[.]venv' /proc/{self.worker}/maps | sort -u")
        return {
            "release": metric.partition('release="')[2].partition('"')[0],
            "folder": self.box.text(f"readlink /proc/{self.worker}/cwd"),
            "environment": mapped,
            "limit": json.loads(refusal)["message"].rpartition(" ")[0].rpartition(": ")[2],
        }

    def answers(self) -> int:
        """Return the number of generation requests that this worker has answered."""
        figures = self.box.run(f"curl -sf -m 10 {URL}/api/metrics", check=False).stdout
        return int(json.loads(figures)["application"]["successful_requests"]) if figures else 0

    def journal(self, words: str) -> list[dict[str, Any]]:
        """Return the lines of the unit's journal that hold these words; `__MONOTONIC_TIMESTAMP` is in microseconds."""
        lines = self.box.text("journalctl -u avito-ai -o json --no-pager").splitlines()
        return [entry for entry in map(json.loads, lines) if words in str(entry["MESSAGE"])]


class BoxLoad:
    """The load of `load.py` in a box while its block lasts; `seen` is what its clients saw. rate: requests a second."""

    def __init__(self, service: BootedService, rate: float = 20.0) -> None:
        self._service, self._rate = service, rate
        self.seen: list[dict[str, Any]] = []

    def __enter__(self) -> BoxLoad:
        box = self._service.box
        box.run("rm -rf /root/load && mkdir /root/load")
        shutil.copy2(Path(__file__).with_name("load.py"), box.root / "root/load/load.py")
        self._process = box.start(f"exec python3 /root/load/load.py 8085 /root/load {self._rate}")
        self.await_answers(3 * self._rate)
        return self

    def __exit__(self, *exception: object) -> None:
        (self._service.box.root / "root/load/enough").touch()
        said, _ = self._process.communicate(timeout=READY_WITHIN)
        assert self._process.returncode == 0, said
        self.seen = json.loads((self._service.box.root / "root/load/seen.json").read_text())

    def await_answers(self, number: float) -> None:
        """Wait until the current worker has answered this many more requests."""
        enough = self._service.answers() + number
        until(lambda: self._service.answers() >= enough, READY_WITHIN, every=0.2)

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [request for request in self.seen if request["trouble"]]

    def in_flight(self, moment: float) -> list[dict[str, Any]]:
        """Return the generation requests in flight at a moment of the monotonic clock."""
        return [r for r in self.seen if r["began"] < moment < r["ended"] and r["kind"] != "probe"]


def now() -> float:
    """Return the current time of the clock that the load records, which box and host share."""
    return time.monotonic()
