"""Address checks for deploy.sh. Standard library only, since it runs before anything is installed.

probe.py port HOST PORT ROOT [COMMAND]  state of the port in one line: `free`, `ours URL` or `taken SENTENCE`;
                                   COMMAND: the command that the sentence suggests, with another port
probe.py reachable URL             exit status 0 if the URL responds within a few seconds
probe.py announce PID HOST PORT    while process PID runs: print the loading progress, then the address
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ANSWER_TIMEOUT = 2.0  # seconds for a server on this machine
REACH_TIMEOUT = 5.0  # seconds for one on the Internet
POLL_SECONDS = 0.25
PROGRESS_SECONDS = 5.0
REPEAT_SECONDS = 10.0  # beyond PROGRESS_SECONDS
STAGES = {"waiting": "starting"}  # what readers call a stage
UNITS = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
LISTENING = "0A"  # the state in /proc/net/tcp
OUR_NAME = "Avito AI API"
ANYWHERE = ("0.0.0.0", "::", "")  # nosec B104 # compared with, not bound
ELSEWHERE = ("192.0.2.1", 9)  # of documentation (RFC 5737); nothing is sent there
DEVELOPMENT = "./deploy.sh development"


class Holder(NamedTuple):
    """The process that listens on a port."""

    pid: int
    name: str
    folder: str


def describe_port(host: str, port: str, root: str, command: str = DEVELOPMENT) -> str:
    """Return `free`, `ours URL` or `taken SENTENCE`; an invalid port counts as free, since the settings refuse it."""
    if not port.isdigit() or int(port) > 65535:
        return "free"
    reason = bind_error(host, int(port))
    return "free" if reason is None else describe_refusal(reason, host, port, root, command)


def describe_refusal(reason: int, host: str, port: str, root: str, command: str = DEVELOPMENT) -> str:
    """Return `ours URL` or `taken SENTENCE` for an address that could not be bound; reason: an errno."""
    if reason == errno.EACCES:
        return f"taken Port {port} needs root. Choose another: {with_port(command, 8085)}"
    if reason != errno.EADDRINUSE:
        return f"taken HOST={host} is not an address of this machine: {os.strerror(reason)}."
    return describe_taken(address(host, port), port, find_holder(int(port)), root, command)


def bind_error(host: str, port: int) -> int | None:
    """Return the errno of binding the address, or None if it succeeds."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
            trial.listen(1)
        except (socket.gaierror, UnicodeError):
            return errno.EADDRNOTAVAIL
        except OSError as error:
            return error.errno
    return None


def describe_taken(url: str, port: str, holder: Holder | None, root: str, command: str = DEVELOPMENT) -> str:
    """Return `ours URL` if the service of `root` responds there, else `taken` with the process that holds the port."""
    answers = fetch_json(f"{url}/api/health/live")[1].get("status") == "alive"
    if answers and holder and os.path.realpath(holder.folder) == os.path.realpath(root):
        return f"ours {url}"
    who = f"{holder.name} (process {holder.pid})" if holder else "a process of another user"
    if answers:
        who = f"another copy of {OUR_NAME}, {who}" + (f" in {holder.folder}" if holder and holder.folder else "")
    return f"taken Port {port} is held by {who}. Choose another: {with_port(command, free_port(int(port)))}"


def with_port(command: str, port: int) -> str:
    """Return the command with another port; in production it is an argument, which is written to the settings file."""
    return f"PORT={port} {command}" if command == DEVELOPMENT else f"{command} PORT={port}"


def free_port(taken: int) -> int:
    """Return a port near `taken` that nothing listens on."""
    candidates = (port for port in range(taken + 1, min(taken + 100, 65536)) if bind_error("127.0.0.1", port) is None)
    return next(candidates, 8085)


def address(host: str, port: str) -> str:
    """Return the URL at which a browser on this machine reaches a server bound to the host and port."""
    name = "127.0.0.1" if host in ANYWHERE else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def network_url(host: str, port: str) -> str:
    """Return the URL for other machines of a server on all addresses; empty for any other, and without a network."""
    if host not in ANYWHERE:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        try:
            route.connect(ELSEWHERE)
            own = str(route.getsockname()[0])
        except OSError:
            return ""
    return "" if own.startswith("127.") else address(own, port)


def find_holder(port: int, proc: Path = Path("/proc")) -> Holder | None:
    """Return the process that listens on a TCP port; None if it is not visible (another user's)."""
    if (proc / "net/tcp").exists():
        return holder_from_proc(port)
    return holder_from_lsof(port) if shutil.which("lsof") else None


def holder_from_proc(port: int) -> Holder | None:
    """Find the listener in proc(5): the socket's inode, then the process with the lowest pid that has it open."""
    inodes = {name for _, listening, name in listening_sockets() if listening == port}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if not inodes.isdisjoint(os.readlink(link) for link in (folder / "fd").iterdir()):
                return Holder(int(folder.name), (folder / "comm").read_text().strip(), os.readlink(folder / "cwd"))
        except OSError:
            continue  # another user's process, or one that has just exited
    return None


def listening_sockets(proc: Path = Path("/proc")) -> Iterator[tuple[str, int, str]]:
    """Yield address, in the hexadecimal form of proc(5), port and `socket:[N]` name of each listening TCP socket."""
    for table in (proc / "net/tcp", proc / "net/tcp6"):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            if fields[3] == LISTENING:
                host, _, port = fields[1].rpartition(":")
                yield host, int(port, 16), f"socket:[{fields[9]}]"


def holder_from_lsof(port: int) -> Holder | None:
    """Find the listener with lsof, for macOS."""
    fields = lsof("-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc")
    if "p" not in fields:
        return None
    folder = lsof("-a", "-p", fields["p"], "-d", "cwd", "-Fn").get("n", "")
    return Holder(int(fields["p"]), fields.get("c", "?"), folder)


def lsof(*arguments: str) -> dict[str, str]:
    """Run lsof and return the first value of each field of its output, by the field's letter."""
    output = subprocess.run(["lsof", *arguments], capture_output=True, text=True, check=False).stdout
    fields: dict[str, str] = {}
    for line in output.splitlines():
        fields.setdefault(line[:1], line[1:])
    return fields


def fetch_json(url: str, timeout: float = ANSWER_TIMEOUT) -> tuple[int, dict[str, Any]]:
    """Return status and body of a GET with any status; 0 and {} without a JSON object."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        try:
            with opener.open(url, timeout=timeout) as response:
                status, body = response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, body = error.code, error.read()  # which may stop half-way, too
    except (OSError, http.client.HTTPException, ValueError):  # the last for what is no address
        return 0, {}
    try:
        value = json.loads(body)
    except ValueError:
        return 0, {}
    return (status, value) if isinstance(value, dict) else (0, {})


def reachable(url: str) -> bool:
    """Return whether the URL responds, through the proxy of the environment if any."""
    try:
        with urllib.request.urlopen(url, timeout=REACH_TIMEOUT):  # nosec B310 # the operator names the address
            return True
    except (OSError, http.client.HTTPException, ValueError):
        return False


def announce(
    pid: int,
    host: str,
    port: str,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Print the service's loading progress until it is ready or its process has exited.

    A line a stage, with the seconds since the start; one that takes long is repeated.
    """
    url = address(host, port)
    said, wait, began = "", 0.0, clock()
    while alive(pid):
        status, body = fetch_json(f"{url}/api/health/ready")
        if status == 200:
            print(f"==> Ready at {url} (Ctrl+C stops it)", flush=True)
            if elsewhere := network_url(host, port):
                print(f"==> In this network: {elsewhere}, for everybody in it and your phone too", flush=True)
            return
        progress = describe_progress(body)
        if progress and wait <= (0 if progress != said else -REPEAT_SECONDS):
            seconds = int(clock() - began)
            print(f"==> {progress}" + (f", {seconds} s" if seconds else ""), flush=True)
            said, wait = progress, PROGRESS_SECONDS
        pause(POLL_SECONDS)
        wait -= POLL_SECONDS


def describe_progress(body: dict[str, Any]) -> str:
    """Return the loading progress in readiness as one line; empty if there is none."""
    progress = body.get("progress")
    if not isinstance(progress, dict) or "stage" not in progress:
        return ""
    loaded, total = progress.get("loaded_bytes", 0), progress.get("total_bytes", 0)
    share = f", {amounts(loaded, total)}" if total else ""
    return f"Loading: {STAGES.get(progress['stage'], progress['stage'])}{share}"


def amounts(part: int, total: int) -> str:
    """Return how much of a number of bytes there is, in the unit that shows it."""
    unit, name = next(((unit, name) for unit, name in UNITS if total >= unit), UNITS[-1])
    digits = 2 if name == "GiB" else 1
    return f"{part / unit:.{digits}f} of {total / unit:.{digits}f} {name}"


def alive(pid: int) -> bool:
    """Return whether the process is running. One that has ended and that nobody has waited for is not."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:  # a system without /proc
        return True


def main(arguments: list[str]) -> int:
    """Run one check; return the exit status."""
    match arguments:
        case ["port", host, port, root, *command] if len(command) <= 1:
            print(describe_port(host, port, root, *command))
        case ["reachable", url]:
            return 0 if reachable(url) else 1
        case ["announce", pid, host, port]:
            announce(int(pid), host, port)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
