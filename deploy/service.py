"""Addresses, readiness and loading progress of a running service. Standard library only.

python -m deploy.service listens PID              each address that the process listens on: HOST PORT
python -m deploy.service url PID                  the local URL of the process
python -m deploy.service state PID                its readiness in a few lines; exit status 1 if it is not ready
python -m deploy.service watch UNIT COMMAND...    run the command and print the loading progress meanwhile
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from pathlib import Path

from deploy.probe import address, describe_progress, fetch_json, listening_sockets

EVERY = 5.0  # seconds between two lines of progress


def listeners(pid: int, proc: Path = Path("/proc")) -> list[tuple[str, int]]:
    """Return host and port of each TCP socket on which the process listens; empty if it is not visible."""
    own = _sockets(proc / str(pid) / "fd")
    return [(_host(host), port) for host, port, name in listening_sockets(proc) if name in own]


def url_of(pid: int, proc: Path = Path("/proc")) -> str | None:
    """Return the local URL of the process; None if it does not listen."""
    found = listeners(pid, proc)
    return address(found[0][0], str(found[0][1])) if found else None


def unit_property(unit: str, name: str) -> str:
    """Return a property of a unit from systemd; empty without systemd."""
    command = ["systemctl", "show", "--property", name, "--value", unit]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def main_pid(unit: str) -> int:
    """Return the main pid of a unit; 0 without one."""
    pid = unit_property(unit, "MainPID")
    return int(pid) if pid.isdigit() else 0


def watch(unit: str, command: list[str], every: float = EVERY) -> int:
    """Run the command, print the loading progress meanwhile, and return its exit status."""
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
    """Return the loading progress of the unit's service as one line; empty if there is none."""
    url = url_of(main_pid(unit))
    return describe_progress(fetch_json(f"{url}/api/health/ready")[1]) if url else ""


def state(pid: int) -> tuple[bool, list[str]]:
    """Return whether the service of the process is ready, and its state in readable lines."""
    url = url_of(pid)
    if url is None:
        return False, ["readiness  the process does not listen"]
    status, body = fetch_json(f"{url}/api/health/ready", timeout=10.0)
    if status == 0:
        return False, [f"readiness  no answer from {url}"]
    models = [f"{name} {model['status']}" for name, model in sorted(body.get("models", {}).items())]
    where = f"GPU memory {body['gpu_memory_gb']} GB" if body.get("cuda_available") else "on the CPU"
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
    """Return an address of /proc/net/tcp in the usual notation; there it is hexadecimal, 4 bytes each in host order."""
    words = [int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def main(arguments: list[str]) -> int:
    """Run one command; the exit status of `listens` is 1 if the process does not listen."""
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
