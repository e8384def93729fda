"""The pinned packages of the requirements files, for the SBOM and the audit.

A file has one `name==version` per line, with a marker if it is for some systems only. Options such as `--constraint`
are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
RUN = ROOT / "requirements.txt"
CUDA = ROOT / "deploy/constraints-cuda.txt"
VARIANTS = {"cpu": (RUN,), "cuda": (RUN, CUDA)}


@dataclass(frozen=True, order=True)
class Pin:
    """A release of a package, by its canonical name; everywhere: it has no marker."""

    name: str
    version: str
    everywhere: bool = True


def read_pins(*files: Path) -> list[Pin]:
    """Return the pins of the files, sorted by name. Raises ValueError for a line without a pinned version."""
    lines = (line.partition("#")[0].strip() for file in files for line in file.read_text("utf-8").splitlines())
    return sorted(_pin(line) for line in lines if line and not line.startswith("-"))


def _pin(line: str) -> Pin:
    requirement = Requirement(line)
    operators = [specifier.operator for specifier in requirement.specifier]
    if operators != ["=="]:
        raise ValueError(f"{line!r} pins no version")
    (specifier,) = requirement.specifier
    return Pin(canonicalize_name(requirement.name), specifier.version, requirement.marker is None)
