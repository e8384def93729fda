"""Where a running process listens, and what the service says while it loads; with the standard library alone.

python -m deploy.service listens PID              each address that the process listens on: HOST PORT
python -m deploy.service url PID                  the URL at which this machine reaches the process
python -m deploy.service state PID                its readiness in a few lines; exit status 1 where it is not ready
python -m deploy.service watch UNIT COMMAND...    run the command, and tell the load's progress while it lasts
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from pathlib import Path

from deploy.probe import address, describe_progress, fetch_json

EVERY = 5.0  # seconds between two lines of progress
LISTENING = "0A"  # the state in /proc/net/tcp


def listeners(pid: int, proc: Path = Path("/proc")) -> list[tuple[str, int]]:
    """Return host and port of each TCP socket on which the process listens; none where it cannot be seen."""
    own = _sockets(proc / str(pid) / "fd")
    found = []
    for table in (proc / "net/tcp", proc / "net/tcp6"):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in own:
                host, _, port = fields[1].rpartition(":")
                found.append((_host(host), int(port, 16)))
    return found


def url_of(pid: int, proc: Path = Path("/proc")) -> str | None:
    """Return the URL at which this machine reaches what the process serves; None where it listens nowhere."""
    found = listeners(pid, proc)
    return address(found[0][0], str(found[0][1])) if found else None


def unit_property(unit: str, name: str) -> str:
    """Return one property of a unit as systemd knows it; empty where systemd cannot be asked."""
    command = ["systemctl", "show", "--property", name, "--value", unit]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def main_pid(unit: str) -> int:
    """Return the main process of a unit; 0 where it has none."""
    pid = unit_property(unit, "MainPID")
    return int(pid) if pid.isdigit() else 0


def watch(unit: str, command: list[str], every: float = EVERY) -> int:
    """Run the command to its end, print the load's progress meanwhile, and return the exit status."""
    with subprocess.Popen(command) as process:
        said = ""
        while True:
            try:
                return process.wait(every)
            except subprocess.TimeoutExpired:
                line = progress(unit)
                if line not in ("", said):
                    print(f"==> {line}", flush=True)
                said = line


def progress(unit: str) -> str:
    """Return how far the unit's service is with loading, in one line; empty where nothing is said of it."""
    url = url_of(main_pid(unit))
    return describe_progress(fetch_json(f"{url}/api/health/ready")[1]) if url else ""


def state(pid: int) -> tuple[bool, list[str]]:
    """Return whether the process's service is ready, and that in lines for a person."""
    url = url_of(pid)
    if url is None:
        return False, ["readiness  nothing listens"]
    status, body = fetch_json(f"{url}/api/health/ready", timeout=10.0)
    if status == 0:
        return False, [f"readiness  no answer from {url}"]
    models = [f"{name} {model['status']}" for name, model in sorted(body.get("models", {}).items())]
    where = f"GPU memory {body['gpu_memory_gb']} GB" if body.get("cuda_available") else "on the processor"
    lines = [f"readiness  {body.get('status', status)} at {url}: {', '.join(models)}, {where}"]
    if reason := body.get("reason"):
        lines.append(f"    {reason}")
    return status == 200, lines


def _sockets(folder: Path) -> set[str]:
    found = set()
    try:
        for link in folder.iterdir():
            found.add(os.readlink(link))
    except OSError:
        return found
    return found


def _host(text: str) -> str:
    """Return an address of /proc/net/tcp as people write it: each four bytes stand there in the machine's order."""
    words = [int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def main(arguments: list[str]) -> int:
    """Do what is asked; the exit status of `listens` is 1 where the process listens nowhere."""
    match arguments:
        case ["listens", pid]:
            found = listeners(int(pid))
            for host, port in found:
                print(host, port)
            return 0 if found else 1
        case ["url", pid]:
            print(url_of(int(pid)) or "nowhere")
            return 0
        case ["state", pid]:
            is_ready, lines = state(int(pid))
            print("\n".join(f"==> {line}" for line in lines))
            return 0 if is_ready else 1
        case ["watch", unit, *command] if command:
            return watch(unit, command)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
