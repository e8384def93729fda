"""Results files, with the facts that belong to every figure: machine, commit, versions and command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import psutil

from benchmarks.harness import plot
from benchmarks.harness.plot import Panel

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


class Commit(TypedDict):
    """The state of a working tree."""

    commit: str
    uncommitted_changes: bool


class Facts(Commit):
    """When, where and with what a process measures."""

    date: str
    command: str
    cpu: str
    cores: int | None
    memory_gb: float
    gpus: list[str]
    load_average_1min: float
    system: str
    python: str
    packages: dict[str, str]


def facts(packages: Iterable[str]) -> Facts:
    """Return the facts of this process, with the versions of the packages."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        **state_of(ROOT),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": _gpus(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def priority(policy: int) -> list[str]:
    """Return what is to be said of a measurement whose processes run before others. policy: of the scheduler."""
    if policy in (getattr(os, "SCHED_RR", None), getattr(os, "SCHED_FIFO", None)):
        return ["All processes of the measurement ran before others (`chrt`), since the machine was shared."]
    return []


def write(
    name: str,
    measured: Facts,
    record: Mapping[str, object],
    title: str,
    tables: Sequence[str],
    folder: Path = RESULTS,
    panels: Sequence[Panel] = (),
) -> Path:
    """Write `name`.json with everything, `name`.md for people and, if there are panels, their plot as `name`.png.

    Returns the path of the Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plotted = {"plot": panels} if panels else {}
    content = {"facts": measured, **record, **plotted}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    changed = " with uncommitted changes" if measured["uncommitted_changes"] else ""
    packages = ", ".join(f"{package} {number}" for package, number in measured["packages"].items())
    memory = f"{measured['memory_gb']} GB of memory, {', '.join(measured['gpus']) or 'no GPU'}"
    lines = [
        f"# {title}",
        f"Measured {measured['date']} at commit {measured['commit'][:12]}{changed}, on {measured['cores']} x "
        f"{measured['cpu']} (load average before: {measured['load_average_1min']}), {memory}, "
        f"{measured['system']}, Python {measured['python']}, {packages}.",
        f"    {measured['command']}",
        *priority(os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else 0),
        *tables,
    ]
    if panels and plot.draw(folder / f"{name}.json"):
        lines.append(f"![{title}]({name}.png)")
    path = folder / f"{name}.md"
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, all columns but the first aligned to the right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def state_of(folder: Path) -> Commit:
    """Return the commit of a working tree, "unknown" if there is none, and whether tracked files differ from it.

    Results that were written since do not count: they are no part of what is measured.
    """

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        except OSError:  # a machine without git
            return ""
        return done.stdout.strip()

    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    return {"commit": git("rev-parse", "HEAD") or "unknown", "uncommitted_changes": bool(changes)}


def _gpus() -> list[str]:
    """Return each NVIDIA GPU's name with its memory and driver."""
    import pynvml  # a borrowed machine, whose parts of `card` need no such facts, may lack it

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    driver = pynvml.nvmlSystemGetDriverVersion()
    gpus = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        size = pynvml.nvmlDeviceGetMemoryInfo(gpu).total / 1e9
        gpus.append(f"{pynvml.nvmlDeviceGetName(gpu)} ({size:.0f} GB, driver {driver})")
    return gpus


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
