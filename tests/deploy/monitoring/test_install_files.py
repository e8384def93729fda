"""deploy/monitoring/install.sh writes what the programs can read, which run as users of their own."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# The last step fails, so that nothing is awaited that does not run.
TOOLS = {
    "id": "echo 0",
    "systemctl": '[ "$1" != restart ]',
    "dpkg-query": "echo ' installed'",
    "promtool": "exit 0",
    "amtool": "exit 0",
    "prometheus-blackbox-exporter": "exit 0",
}


@pytest.mark.linux
def test_everybody_reads_the_configuration_whatever_the_umask(tmp_path: Path) -> None:
    """That of a hardened machine lets nobody else read what root writes."""
    there, programs, etc = tmp_path / "monitoring", tmp_path / "bin", tmp_path / "etc"
    shutil.copytree(ROOT / "deploy/monitoring", there)
    script = there / "install.sh"
    script.write_text(script.read_text().replace("/etc/", f"{etc}/"))
    programs.mkdir()
    for name, text in TOOLS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    etc.mkdir()
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(script)], env={"PATH": path}, umask=0o077, capture_output=True, check=False, timeout=600
    )
    written = [path for folder in ("avito-monitoring", "systemd") for path in (etc / folder).rglob("*")]
    assert {path.name for path in written} >= {"prometheus.yml", "alertmanager.yml", "avito-ai.conf"}
    wanted = {path: 0o755 if path.is_dir() else 0o644 for path in [etc / "avito-monitoring", *written]}
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in wanted} == wanted
