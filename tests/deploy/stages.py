"""How long each stage of a command takes that tells its stages in lines `==> ...`, as deploy.sh does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

MARK = "==> "
# What takes as long as the mirrors of packages are far away, by how the line begins that announces it.
FETCHING = (
    "Installing the system packages",
    "Installing the compiler",
    "Installing the packages with",
    "Still installing",
)


class Stage(NamedTuple):
    """A line that announces what comes, and the seconds until the next one: of the clock, and of a processor."""

    name: str
    seconds: float
    cpu: float

    @property
    def fetches(self) -> bool:
        """Whether apt or pip work meanwhile."""
        return self.name.startswith(FETCHING)


class Timed(NamedTuple):
    """A command that has ended."""

    status: int
    output: str
    stages: list[Stage]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def own_seconds(self) -> float:
        """Without what apt and pip took."""
        return sum(stage.seconds for stage in self.stages if not stage.fetches)

    @property
    def own_cpu(self) -> float:
        """Processor time without that of apt and pip."""
        return sum(stage.cpu for stage in self.stages if not stage.fetches)

    def table(self) -> str:
        """Return a line for each stage that took half a second and more."""
        long = [stage for stage in self.stages if stage.seconds >= 0.5]
        rows = [(f"{one.seconds:7.1f} s, cpu {one.cpu:6.1f} s", one) for one in long]
        return "\n".join(f"{row}{'  apt, pip' if one.fetches else '':10}  {one.name[:80]}" for row, one in rows)


def timed(process: subprocess.Popen[str], cpu_seconds: Callable[[], float]) -> Timed:
    """Read the output of a process to its end. cpu_seconds: the processor time that was used so far."""
    assert process.stdout is not None
    stages, output = list[Stage](), list[str]()
    name, begun, used = "start", time.monotonic(), cpu_seconds()

    def end(next_name: str) -> None:
        nonlocal name, begun, used
        now, by_now = time.monotonic(), cpu_seconds()
        stages.append(Stage(name, now - begun, by_now - used))
        name, begun, used = next_name, now, by_now

    with process:
        for line in process.stdout:
            output.append(line)
            if line.startswith(MARK):
                end(line.removeprefix(MARK).strip())
    end("")
    return Timed(process.returncode, "".join(output), stages)
