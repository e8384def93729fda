"""What another Python says of the packages that it runs."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness.peer_builds import UNKNOWN, build_of, builds, python_of, version_of


def program(folder: Path, name: str, body: str) -> Path:
    """Return an executable script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_versions_and_build_are_those_of_the_other_python() -> None:
    """Packages that it lacks are left out; the build is what it prints, in one line."""
    found = build_of(Path(sys.executable), ("psutil", "of-nobody"), "print('AVX2 = 1\\n | FMA = 1')")
    assert found.versions.keys() == {"Python", "psutil"}
    assert found.versions["psutil"] == version("psutil")
    assert str(found).endswith(f"psutil {version('psutil')}; build: AVX2 = 1 | FMA = 1")


def test_the_python_of_a_program_is_the_one_beside_it(tmp_path: Path) -> None:
    """And its own answer to --version is recorded beside the packages."""
    program(tmp_path, "python", f'exec {sys.executable} "$@"')
    vllm = program(tmp_path, "vllm", 'echo "0.32.0+cpu $1"')
    found = builds(vllm, None, None)["vLLM"]
    assert found.versions["vllm --version"] == "0.32.0+cpu --version"
    assert found.versions["torch"] == version("torch")
    assert "PyTorch built with" in found.build


def test_what_does_not_say_is_unknown(tmp_path: Path) -> None:
    """A program that is missing or fails does not end the comparison."""
    nothing = tmp_path / "nothing"
    failing = program(tmp_path, "failing", "echo half; exit 1")
    assert version_of(nothing) == version_of(failing) == UNKNOWN
    assert str(build_of(nothing, ("torch",), "")) == f"versions {UNKNOWN}; build: {UNKNOWN}"
    assert build_of(Path(sys.executable), ("psutil",), "import of_nobody").build == UNKNOWN
    assert python_of(nothing) == tmp_path / "python"
