"""Compiles the C kernels with the compiler of this machine.

`python -m engine.model.kernels.build [LEVEL ...]` compiles them before the first start. The library is written beside
its source or, if that folder is read-only, to a temporary folder. Its file name contains the level and a hash of source
and flags, so changed sources and other processors never load an old library.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = tuple(
    HERE / name
    for name in (
        "linear.c",
        "half.c",
        "quantized.c",
        "rows.c",
        "attention.c",
        "rounded.c",
        "layers.c",
        "sampling.c",
        "ranked.c",
    )
)
HEADERS = tuple(HERE / name for name in ("attention.h", "kernels.h", "layers.h", "packed.h", "sampling.h"))
COMPILERS = ("gcc", "cc")
BUILDING = ".building-"  # how the folder of an unfinished library begins; git ignores it
TIMEOUT = 120.0  # seconds
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
_V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_WIDE = ("-mprefer-vector-width=512",)
# The supported x86-64 levels, best first: the processor flags that Linux lists for each, and the compiler's options.
LEVELS = {
    "x86-64-v4+bf16": (
        {*_V4, "avx512_vnni", "avx512_bf16"},
        ("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16", *_WIDE),
    ),
    "x86-64-v4+vnni": ({*_V4, "avx512_vnni"}, ("-march=x86-64-v4", "-mavx512vnni", *_WIDE)),
    "x86-64-v4": (_V4, ("-march=x86-64-v4", *_WIDE)),
    "x86-64-v3": ({"avx2", "fma", "bmi2", "f16c", "movbe"}, ("-march=x86-64-v3",)),
}
_CPU_INFO = Path("/proc/cpuinfo")


def level_of(cpu_info: Path = _CPU_INFO) -> str | None:
    """Return the level of this processor, None if no supported one applies."""
    if platform.machine() != "x86_64":
        return None
    try:
        lines = cpu_info.read_text(errors="replace").splitlines()
    except OSError:
        return None
    flags = next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set[str]())
    return next((level for level, (needed, _) in LEVELS.items() if needed <= flags), None)


def library_name(level: str) -> str:
    """Return the file name of the library for a level; it changes with the source."""
    inputs = b"".join(path.read_bytes() for path in (*HEADERS, *SOURCES)) + repr((FLAGS, LEVELS[level][1])).encode()
    return f"kernels-{level}-{hashlib.sha256(inputs).hexdigest()[:12]}.so"


def obtainable(level: str | None, folder: Path = HERE, compilers: Sequence[str] = COMPILERS) -> bool:
    """Return whether the kernels for a level are compiled, or a compiler is here that could; compiles nothing."""
    return level is not None and ((folder / library_name(level)).exists() or _compiler(compilers) is not None)


def compile_to(target: Path, level: str, compilers: Sequence[str] = COMPILERS) -> None:
    """Compile the kernels for a level. Raises OSError if that fails; `target` then does not exist."""
    compiler = _compiler(compilers)
    if compiler is None:
        raise FileNotFoundError(f"no C compiler is installed ({', '.join(compilers)})")
    with tempfile.TemporaryDirectory(prefix=BUILDING, dir=target.parent) as folder:
        output = Path(folder) / target.name
        command = [compiler, *FLAGS, *LEVELS[level][1], *map(str, SOURCES), "-o", str(output)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.SubprocessError as error:
            message = getattr(error, "stderr", None) or str(error)
            raise OSError(f"{compiler} failed: {message.strip()[-500:]}") from error
        os.replace(output, target)
    for old in set(target.parent.glob(f"kernels-{level}-*.so")) - {target}:
        old.unlink(missing_ok=True)  # compiled from an earlier source


def _compiler(compilers: Sequence[str]) -> str | None:
    return next(filter(None, map(shutil.which, compilers)), None)


def main(levels: Sequence[str], folder: Path = HERE, compilers: Sequence[str] = COMPILERS) -> str | None:
    """Compile the missing libraries for these levels, by default for this processor, and print their paths.

    Returns an error message, or None on success.
    """
    detected = level_of()
    wanted = [*levels] or ([detected] if detected else [])
    unknown = [level for level in wanted if level not in LEVELS]
    if unknown or not wanted:
        return f"Kernels exist for {', '.join(LEVELS)} only, not for {unknown[0] if unknown else 'this processor'}."
    for library, level in ((folder / library_name(level), level) for level in wanted):
        try:
            if not library.exists():
                compile_to(library, level, compilers)
        except OSError as error:
            return f"The kernels cannot be built: {error}"
        print(library)
    return None


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # this file also runs where the others are not
        sys.exit(128 + signal.SIGINT)
