"""Names the files that settings point to, which deploy/backup.sh keeps wherever they are.

    python -m deploy.named_files list ROOT SETTINGS_FILE...        print them, as paths below ROOT, one a line; the
                                                                   status is 1 if one is not there, which is said
    python -m deploy.named_files moved SETTINGS_FILE ROOT FOLDER   print the settings with the paths of these files in
                                                                   FOLDER, which has those below ROOT

Only the standard library is needed, and neither a release nor settings that are valid.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.database_copy import read

# Named for what is written there, or for other programs.
NOT_KEPT = {"LOG_FILE", "ENV_FILE", "COMPOSE_FILE"}
UPSTREAMS = "UPSTREAMS_FILE"
MAX_LINKS = 8
# Kept whole, without anybody naming its files.
WHOLE = Path("etc/avito-ai")


def main(command: str, *arguments: str) -> int:
    """Run one of the commands; return the exit status."""
    if command == "moved":
        print(moved(*map(Path, arguments)), end="")
        return 0
    root, *settings = map(Path, arguments)
    missing = False
    for name, file in [pair for one in settings if one.is_file() for pair in ((str(one), one), *named(one))]:
        found = places(file, root)
        missing = missing or not found
        if not found:
            print(f"{name}: there is no file {file}.", file=sys.stderr)
        for path in found:
            if WHOLE not in path.parents:
                print(path)
    return int(missing)


def named(settings: Path, at: Callable[[Path], Path] = lambda path: path) -> Iterator[tuple[str, Path]]:
    """Yield the files that settings name, and what names each. at: where a file is in fact."""
    for name, value in read(settings).items():
        if name.endswith("_FILE") and name not in NOT_KEPT and value:
            yield name, Path(value)
            if name == UPSTREAMS:
                yield from _of_upstreams(at(Path(value)))


def places(file: Path, root: Path) -> list[Path]:
    """Return the paths below a root of a file and, if that is a link, of where it leads; none if it is not there."""
    if not (file.is_absolute() and file.is_file() and file.is_relative_to(root)):
        return []
    real, top = file.resolve(), root.resolve()
    found = {file.relative_to(root)} | ({real.relative_to(top)} if real.is_relative_to(top) else set())
    return sorted(found)


def moved(settings: Path, root: Path, folder: Path) -> str:
    """Return settings that name the files in a folder; the file of upstreams is changed in a copy beside the folder."""

    def at(path: Path) -> Path:
        inside = folder / path.relative_to(root) if path.is_relative_to(root) else path
        for _ in range(MAX_LINKS):  # which lead to where the file was
            if not (inside.is_symlink() and (target := inside.readlink()).is_relative_to(root)):
                break
            inside = folder / target.relative_to(root)
        return inside

    files = dict(named(settings, at))
    new = {file: at(file) for file in files.values()}
    upstreams = files.get(UPSTREAMS)
    if upstreams is not None and new[upstreams].is_file():
        changed = folder.parent / "upstreams.toml"
        changed.write_text(_replaced(new[upstreams].read_text(encoding="utf-8"), new), encoding="utf-8")
        new[upstreams] = changed
    return _replaced(settings.read_text(encoding="utf-8"), new)


def _replaced(text: str, new: dict[Path, Path]) -> str:
    """Return a text with other paths for these, in one pass and where they stand alone."""
    if not new:
        return text
    paths = "|".join(re.escape(str(path)) for path in new)
    return re.sub(rf"(?<![\w./-])(?:{paths})(?![\w./-])", lambda found: str(new[Path(found[0])]), text)


def _of_upstreams(file: Path) -> Iterator[tuple[str, Path]]:
    import tomllib  # new in Python 3.11, which a machine that restores a backup may not have yet

    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8")).get("upstream", [])
    except (OSError, ValueError) as error:
        print(f"{UPSTREAMS}: the files that {file} names are unknown: {error}", file=sys.stderr)
        return
    for table in tables if isinstance(tables, list) else ():
        for name in ("key_file", "ca_file"):
            if isinstance(table, dict) and isinstance(table.get(name), str):
                yield f"{UPSTREAMS}: {name}", Path(table[name])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
