"""Writing to a settings file: one line changed at a time, all others, comments too, as they were."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

# What Docker, systemd and python-dotenv read alike without quotes.
PLAIN = re.compile(r"[^\s'\"#$\\`]*")


def write(file: Path, given: Mapping[str, str], check: Callable[[Path], object]) -> None:
    """Write values to a settings file, by their names. Raises what `check` raises of the new file, and OSError.

    The file is replaced whole, so that nobody reads half of it; it keeps its mode and owner, and a link its target.
    What is no file, such as /dev/null, is not replaced.
    """
    target = file.resolve()
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "it is there, and no file", str(target))
    lines = target.read_text(encoding="utf-8").splitlines() if target.exists() else []
    for name, value in given.items():
        lines = _with(lines, name, value)
    new = target.with_name(f"{target.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write("".join(f"{line}\n" for line in lines))
    try:
        check(new)
        if target.exists():
            known = target.stat()
            os.chown(new, known.st_uid, known.st_gid)
            new.chmod(known.st_mode & 0o777)
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def _with(lines: list[str], name: str, value: str) -> list[str]:
    """Return the lines with one more or changed: the last that sets the name, else a commented one, else at the end."""
    line = f"{name}={value if PLAIN.fullmatch(value) else _quoted(value)}"
    setting = [at for at, text in enumerate(lines) if re.match(rf"\s*(export\s+)?{name}\s*=", text)]
    commented = [at for at, text in enumerate(lines) if text.startswith(f"#{name}=")]
    if not setting and not commented:
        return [*lines, line]
    place = setting[-1] if setting else commented[0]
    return [line if at == place else text for at, text in enumerate(lines) if at == place or at not in setting]


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
