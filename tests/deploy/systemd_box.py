"""A disposable Debian with systemd as process 1, to test the service under real systemd.

It is booted by systemd-nspawn over a base system that debootstrap makes once, on any machine where one is root, also
where process 1 is not systemd. It has its own network with its own 127.0.0.1; pip and apt in it reach what the
machine's own reach. Seccomp, capabilities and the file system's protections hold in it; limits of control groups do
not where the machine has no version 2 of them.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tests.e2e.gunicorn_process import until

TOP = Path(tempfile.gettempdir()) / "avito-ai-systemd-box"
PROGRAMS = ("debootstrap", "systemd-nspawn", "nsenter", "ip", "iptables", "mount")
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates,curl,procps,iproute2,logrotate"
BUILD_SECONDS = 1200.0
BOOT_SECONDS = 60.0
LINE_SECONDS = 900.0
KEPT_VARIABLES = re.compile(r"PIP_|SSL_CERT_FILE$|REQUESTS_CA_BUNDLE$")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = Path("/sys/fs/cgroup")
ACCOUNTS = CGROUPS / "cpuacct"
BOXES = itertools.count()


def host(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program on this machine; print its output if it fails unexpectedly."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


def base_system() -> Path:
    """Return the folder of the base system, created on first use, which takes a minute or more."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    assert not missing, f"apt-get install systemd-container debootstrap iproute2 iptables: {missing} are not here"
    assert os.geteuid() == 0, "booting a system needs root"
    suite, mirror = _suite(), _mirror()
    base, making = TOP / f"base-{suite}", TOP / f"making-{os.getpid()}"
    if base.exists():
        return base
    TOP.mkdir(parents=True, exist_ok=True)
    host("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(making), mirror)
    (making / "etc/apt/sources.list").write_text(f"deb {mirror} {suite} main\n")
    (making / "etc/machine-id").write_text("")
    making.rename(base)
    return base


def _suite() -> str:
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return release["VERSION_CODENAME"]


def _mirror() -> str:
    """Return the machine's own Debian mirror."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.*"))]
    text = "\n".join(file.read_text() for file in files if file.exists())
    found = re.search(r"^(?:URIs:|deb(?: \[[^]]*\])?) *(\S+/debian/?)(?:\s|$)", text, re.MULTILINE)
    return found.group(1) if found else "http://deb.debian.org/debian"


def _paths_of_pip() -> set[Path]:
    """Return what pip needs of this machine besides the network: settings, certificates, package folders."""
    listed = host(sys.executable, "-m", "pip", "config", "list").stdout
    named = {Path(path.removesuffix("/simple")) for path in re.findall(r"(?:file://)?(/[^ ']+)", listed)}
    usual = {Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path("/etc/ssl/certs")}
    wanted = sorted(path for path in named | usual if path.exists())
    return {path for path in wanted if not any(other in path.parents for other in wanted)}


class SystemdBox:
    """One booted system, deleted at the end of its block. copies: folders to copy into it, by their path there."""

    def __init__(self, name: str, copies: Iterable[tuple[Path, str]] = ()) -> None:
        self.name = f"{name}{os.getpid()}"
        self.folder = TOP / self.name
        self.root = self.folder / "root"
        self._copies = tuple(copies)
        self._number = (os.getpid() + 67 * next(BOXES)) % 200 + 50
        self._nspawn: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SystemdBox:
        base = base_system()
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir(parents=True)
        layers = f"lowerdir={base},upperdir={self.folder}/upper,workdir={self.folder}/work"
        try:
            host("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
            for source, place in self._copies:
                shutil.copytree(source, self.root / place.lstrip("/"), symlinks=True, dirs_exist_ok=True)
            self._make_network()
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._nspawn is not None:
            self._shut_down(self._nspawn)
        self._end_network()
        host("umount", str(self.root), check=False)
        for folder in self._control_groups():
            for group in (*sorted(folder.rglob("*/"), reverse=True), folder):
                until(lambda group=group: _ended(group), patience=BOOT_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, line: str, check: bool = True, timeout: float = LINE_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run a bash command as root in it; print its output if it fails unexpectedly."""
        options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": timeout}
        done = subprocess.run(self._entering(line), check=False, **options)
        said = f"{line}: {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        assert not check or done.returncode == 0, said
        return done

    def start(self, line: str) -> subprocess.Popen[str]:
        """Start a bash command in it and return at once; its output can be read from `stdout`."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "text": True}
        return subprocess.Popen(self._entering(line), **options)

    def _entering(self, line: str) -> list[str]:
        """Return the command that runs a bash command in the box."""
        environ = {name: value for name, value in os.environ.items() if KEPT_VARIABLES.match(name)}
        environ |= {"PATH": PATH, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb"}
        command = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in environ.items()), "bash", "-c", line]
        account = [group for group in self._control_groups() if group.parent == ACCOUNTS]
        enter = "".join(f"echo $$ >{group}/cgroup.procs; " for group in account)
        nsenter = ["nsenter", "--target", str(self._leader()), "--all", "--", *command]
        return ["bash", "-c", f'{enter}exec "$@"', "bash", *nsenter]

    def cpu_seconds(self) -> float:
        """Return the processor time that the box and the commands in it have used, which no other program changes.

        0 where this machine has no accounts of a control group's processor time.
        """
        account = ACCOUNTS / self.name / "cpuacct.usage"
        return int(account.read_text()) / 1e9 if account.exists() else 0.0

    def text(self, line: str) -> str:
        """Return the output of a bash command."""
        return self.run(line).stdout.strip()

    def _boot(self) -> None:
        binds = []
        for path in sorted(_paths_of_pip()):
            place = self.root / str(path).lstrip("/")
            place.mkdir(parents=True, exist_ok=True) if path.is_dir() else _touch(place)
            binds.append(f"--bind-ro={path}")
        command = ["systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.name}", "--boot"]
        command += ["--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=replace-host", "--timezone=off"]
        command += ["--link-journal=no", f"--network-namespace-path=/run/netns/{self.name}", *binds]
        # A group of its own, or the groups of two boxes would be the same ones.
        groups = self._control_groups(make=True)
        enter = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
        with (self.folder / "console").open("wb") as console:
            self._nspawn = subprocess.Popen(
                ["bash", "-c", f'{enter}exec "$@"', "bash", *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        until(self._is_up, patience=BOOT_SECONDS, every=0.1)

    def _is_up(self) -> bool:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, (self.folder / "console").read_text(errors="replace")
        if self._leader() is None:
            return False
        return self.run("systemctl is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def _leader(self) -> int | None:
        """Return the pid of the box's process 1 on this machine."""
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def _shut_down(self, nspawn: subprocess.Popen[bytes]) -> None:
        if nspawn.poll() is None and self._leader() is not None:
            self.run("systemctl poweroff", check=False)
        try:
            nspawn.wait(30)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait(30)

    def _control_groups(self, make: bool = False) -> list[Path]:
        """Return the folders of the box's own control group, in each hierarchy that systemd uses."""
        tops = [CGROUPS] if (CGROUPS / "cgroup.procs").exists() else [CGROUPS / "systemd", CGROUPS / "unified"]
        tops.append(ACCOUNTS)
        folders = [top / self.name for top in tops if top.exists()]
        for folder in folders if make else ():
            folder.mkdir(exist_ok=True)
        return [folder for folder in folders if folder.exists()]

    def _make_network(self) -> None:
        name, link, net = self.name, f"box{self._number}", f"10.77.{self._number}"
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        host("ip", "netns", "add", name)
        host("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        host("ip", "addr", "add", f"{net}.1/24", "dev", link)
        host("ip", "link", "set", link, "up")
        host("ip", "-n", name, "addr", "add", f"{net}.2/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            host("ip", "-n", name, "link", "set", device, "up")
        host("ip", "-n", name, "route", "add", "default", "via", f"{net}.1")
        host(*self._masquerade("-A"))

    def _end_network(self) -> None:
        host(*self._masquerade("-D"), check=False)
        host("ip", "link", "del", f"box{self._number}", check=False)
        host("ip", "netns", "del", self.name, check=False)

    def _masquerade(self, action: str) -> tuple[str, ...]:
        net = f"10.77.{self._number}.0/24"
        return ("iptables", "-t", "nat", action, "POSTROUTING", "-s", net, "!", "-d", net, "-j", "MASQUERADE")


def _ended(group: Path) -> bool:
    """Kill what is left in a control group and remove it; return whether it is gone."""
    for pid in (group / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


def _touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
