"""Compiles the C kernels once with the machine's compiler.

`python -m engine.model.kernels.build [LEVEL ...]` compiles them ahead of the first start. The library is written beside
its source or, where that folder is read-only, into a temporary folder for as long as it is loaded. Its file name
contains a hash of the source and flags, so a changed source or another processor never loads an old library.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = tuple(HERE / name for name in ("linear.c", "rows.c", "attention.c"))
HEADER = HERE / "kernels.h"
COMPILERS = ("gcc", "cc")
SECONDS = 120.0
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
# The levels of x86-64 that the source has tile sizes for, best first, with what the kernel says of such a processor.
LEVELS = {
    "x86-64-v4": ({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, ("-mprefer-vector-width=512",)),
    "x86-64-v3": ({"avx2", "fma", "bmi2", "f16c", "movbe"}, ()),
}
_CPU_INFO = Path("/proc/cpuinfo")


def level_of(cpu_info: Path = _CPU_INFO) -> str | None:
    """Return the level of this machine's processor, None where the kernels have none for it."""
    if platform.machine() != "x86_64":
        return None
    try:
        lines = cpu_info.read_text(errors="replace").splitlines()
    except OSError:
        return None
    flags = next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set[str]())
    return next((level for level, (needed, _) in LEVELS.items() if needed <= flags), None)


def library_name(level: str) -> str:
    """Return the file name of the library for a level, which changes with the source."""
    made_from = b"".join(path.read_bytes() for path in (HEADER, *SOURCES)) + repr((FLAGS, LEVELS[level][1])).encode()
    return f"kernels-{level}-{hashlib.sha256(made_from).hexdigest()[:12]}.so"


def compile_to(target: Path, level: str, compilers: Sequence[str] = COMPILERS) -> None:
    """Compile the kernels for a level. Raises OSError where that fails; the target is whole or not there."""
    compiler = next(filter(None, map(shutil.which, compilers)), None)
    if compiler is None:
        raise FileNotFoundError(f"no C compiler is installed ({', '.join(compilers)})")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [compiler, *FLAGS, f"-march={level}", *LEVELS[level][1], *map(str, SOURCES), "-o", str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.SubprocessError as error:
            said = getattr(error, "stderr", None) or str(error)
            raise OSError(f"{compiler} failed: {said.strip()[-500:]}") from error
        os.replace(made, target)
    for old in set(target.parent.glob(f"kernels-{level}-*.so")) - {target}:
        old.unlink(missing_ok=True)  # made from an earlier source


def main(levels: Sequence[str], folder: Path = HERE, compilers: Sequence[str] = COMPILERS) -> str | None:
    """Compile what is not yet there for these levels, none named: for this processor; print it, or return an error."""
    own = level_of()
    wanted = [*levels] or ([own] if own else [])
    unknown = [level for level in wanted if level not in LEVELS]
    if unknown or not wanted:
        return f"There are kernels for {', '.join(LEVELS)}, and not for {unknown[0] if unknown else 'this processor'}."
    for library, level in ((folder / library_name(level), level) for level in wanted):
        try:
            if not library.exists():
                compile_to(library, level, compilers)
        except OSError as error:
            return f"The kernels cannot be built: {error}"
        print(library)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
