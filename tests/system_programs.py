"""The system programs that tests drive, as the table in deploy/lib/system_packages.sh lists them."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).parents[1] / "deploy/lib/system_packages.sh"
ROW = re.compile(r'^ {4}"([^\s"]+) ([^\s"]+) ([^\s"]+) ([^\s"]+)"$', re.MULTILINE)


@dataclass(frozen=True)
class SystemProgram:
    """A line of the table: a program, what shows that it is installed, its package and its service."""

    program: str
    shown_by: str
    package: str
    service: str

    @property
    def here(self) -> bool:
        """True if one of the commands, or the file, is on this machine; the files are where Linux has them."""
        if self.shown_by.startswith("/") and sys.platform != "linux":
            return True
        return any(Path(name).is_file() or found(name) for name in self.shown_by.split("|"))


def found(command: str) -> str | None:
    """Return the path of a command, which may lie where only root's PATH leads."""
    return shutil.which(command, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin")


@cache
def read_table() -> tuple[SystemProgram, ...]:
    """Return the rows of the table."""
    return tuple(SystemProgram(*row) for row in ROW.findall(TABLE.read_text(encoding="utf-8")))


def program(name: str) -> str:
    """Return the path of a program of the table."""
    (row, *_) = (row for row in read_table() if row.program == name)
    path = next(filter(None, map(found, row.shown_by.split("|"))), None)
    assert path, f"{name} is not installed; `./deploy.sh test` installs it"
    return path


def unmeasured() -> dict[str, str]:
    """Return the environment for a Python program that is not ours: measuring coverage would only slow it down."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
