"""podman with a storage of its own, which builds the image on a base that debootstrap makes and runs it for real.

No registry is asked for anything: the base is a minimal Debian with Python, imported. pip in the build takes its
configuration, and the folders and files that it names, from this machine. Needs root.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ("podman", "runc", "debootstrap", "tar")
REMEDY = "apt-get install --no-install-recommends podman runc buildah debootstrap"
BASE_TAR = Path(tempfile.gettempdir()) / "avito-ai-image-base.tar"
BASE, IMAGE = "localhost/debian-python:12", "localhost/avito-ai:cpu"
MIRROR = "http://deb.debian.org/debian"
# What a container of the image is run with, here and in the documents.
HELD_IN = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
BUILD_SECONDS = 3600.0
COMMAND_SECONDS = 120.0

# Machines without systemd or with old control groups are as good as others for a trial.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{folder}/libpod"
"""
STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""


class Podman:
    """podman whose images and containers lie in `folder`; `reset` removes them all."""

    def __init__(self, folder: Path) -> None:
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        assert not missing, f"{REMEDY}: {missing} are not here"
        assert os.geteuid() == 0, "building an image on an imported base needs root"
        self.folder = folder
        for name, text in (("containers.conf", CONTAINERS_CONF), ("storage.conf", STORAGE_CONF)):
            (folder / name).write_text(text.format(folder=folder))
        self.environ = {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }

    def run(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run a podman command, whatever its exit status."""
        return subprocess.run(
            ["podman", *arguments], env=self.environ, capture_output=True, text=True, timeout=seconds, check=False
        )

    def out(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run a podman command that must succeed; return its output."""
        done = self.run(*arguments, seconds=seconds)
        assert done.returncode == 0, f"podman {' '.join(arguments)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    def import_base(self) -> None:
        """Create the base of the image, or reuse the one of an earlier run."""
        if not BASE_TAR.exists():
            tree = self.folder / "base"
            debian = [
                "debootstrap",
                "--variant=minbase",
                "--include=python3,python3-venv",
                "bookworm",
                str(tree),
                MIRROR,
            ]
            subprocess.run(debian, check=True, capture_output=True, timeout=BUILD_SECONDS)
            for useless in (*tree.glob("var/cache/apt/archives/*.deb"), *tree.glob("var/lib/apt/lists/*_*")):
                useless.unlink()
            packed = BASE_TAR.with_suffix(f".{os.getpid()}")
            subprocess.run(
                ["tar", "--directory", str(tree), "--create", "--file", str(packed), "."], check=True, timeout=600
            )
            packed.rename(BASE_TAR)
            shutil.rmtree(tree)
        self.out("import", str(BASE_TAR), BASE, seconds=BUILD_SECONDS)

    def build(self, variant: str, image: str) -> subprocess.CompletedProcess[str]:
        """Build the Dockerfile of the tree on the imported base."""
        mounts = [word for mount in self._pip_mounts() for word in ("--volume", mount)]
        words = ("--build-arg", f"BASE={BASE}", "--build-arg", f"VARIANT={variant}", "--tag", image, str(ROOT))
        how = ("--isolation=chroot", "--format", "docker")
        return self.run("build", *how, *mounts, *words, seconds=BUILD_SECONDS)

    def reset(self) -> None:
        """Stop all containers of this storage and remove its content."""
        self.out("rm", "--all", "--force", "--time", "0")
        self.out("system", "reset", "--force", seconds=BUILD_SECONDS)
        # podman leaves its storage mounted onto itself.
        subprocess.run(["umount", str(self.folder / "graph/overlay")], capture_output=True, check=False, timeout=600)

    def _pip_mounts(self) -> list[str]:
        """Return what pip in the build has to see of this machine: a configuration, and every path it names."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=600
        )
        found: dict[str, str] = {}
        for line in listed.stdout.splitlines():
            name, _, value = line.partition("=")
            found[name.rpartition(".")[2]] = ast.literal_eval(value)
        conf = self.folder / "pip.conf"
        found.setdefault("retries", "1")
        conf.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in found.items()))
        named = {Path(path) for value in found.values() for path in re.findall(r"(?:file://)?(/[^\s]+)", value)}
        # The pages of an index of files lead to what lies beside it.
        named = {path.parent if path.name == "simple" else path for path in named}
        return [f"{conf}:/etc/pip.conf:ro", *sorted(f"{path}:{path}:ro" for path in named if path.exists())]
