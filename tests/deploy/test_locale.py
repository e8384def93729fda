"""deploy.sh and deploy/backup.sh do the same in every locale, and speak the operator's language."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.deploy.production_box import ProductionBox
from tests.deploy.test_backup import backup
from tests.deploy.test_engine import Installed

pytestmark = [pytest.mark.slow, pytest.mark.linux]

# As comm, which ends with 1 where its files are not sorted as the locale has it, and as tr, to which "I" is no capital
# of "i" in Turkish. A locale need not be there for this.
TOOL = """
[ "${{LC_ALL:-${{LC_COLLATE:-${{LANG:-C}}}}}}" = C ] || {{ echo "{name}: not in sorted order" >&2; exit 1; }}
[ "${{LC_ALL:-${{LC_NUMERIC:-${{LANG:-C}}}}}}" = C ] || {{ echo "{name}: 1,5 is no number" >&2; exit 1; }}
case "$* ${{LC_ALL:-${{LC_CTYPE:-${{LANG:-C}}}}}}" in
*:upper:*" C") ;;
*:upper:*) echo "{name}: which capitals?" >&2; exit 1 ;;
esac
echo "{name} says it in ${{LC_ALL:-${{LC_MESSAGES:-$LANG}}}}" >>"{log}"
exec {program} "$@"
"""
NAMES = ("awk", "comm", "grep", "sed", "sort", "tr")
LOCALES = pytest.mark.parametrize("names", [("LANG",), ("LC_ALL",), ("LANG", "LC_COLLATE", "LC_NUMERIC")])


def tools(log: Path) -> dict[str, str]:
    """Return shell scripts that are these programs, and fail where they would depend on the locale."""
    return {name: TOOL.format(name=name, log=log, program=shutil.which(name)) for name in NAMES}


def russian(names: tuple[str, ...]) -> dict[str, str]:
    return dict.fromkeys(names, "ru_RU.UTF-8")


@pytest.mark.needs("git")
@LOCALES
def test_a_checkout_is_installed_in_every_locale(box: ProductionBox, names: tuple[str, ...]) -> None:
    """Its files are those that git and `find` list, which `comm` compares; messages stay in the operator's language."""
    box.commit()
    box.change()
    for name, script in tools(box.log).items():
        box.tool(name, script)
    before = box.current
    done = box.run("production", **russian(names))
    assert done.returncode == 0, done.stderr
    assert box.current == box.serving != before
    assert box.asked("comm says it in ru_RU.UTF-8") > 0


@LOCALES
def test_a_backup_is_made_and_restored_in_every_locale(box: ProductionBox, names: tuple[str, ...]) -> None:
    """Its files are sorted in both."""
    for name, script in tools(box.log).items():
        box.tool(name, script)
    file = str(box.home / "copy.tar.gz")
    assert backup(box, "create", file, **russian(names)).returncode == 0
    done = backup(box, "restore", file, "--files-only", **russian(names))
    assert done.returncode == 0, done.stderr
    assert box.asked("sort says it in ru_RU.UTF-8") > 0


@LOCALES
def test_the_engine_is_changed_in_every_locale(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Names of settings are matched by their ranges of letters."""
    installed = Installed(tmp_path)
    for name, script in tools(installed.folder / "said").items():
        installed.program(installed.folder / "bin" / name, f"#!/bin/sh\n{script}")
    done = installed.change("vllm", **russian(names))
    assert done.returncode == 0, done.stderr
    assert "VIBE_UPSTREAM=http://127.0.0.1:8001/v1\n" in installed.settings.read_text()
