"""The audit of the pins passes only where the advisories were read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest

from deploy.audit import KNOWN_BAD, NotAuditedError, Report, audit, main, pip_audit
from deploy.pins import CUDA, RUN, Pin, read_pins

GOOD = {Pin("flask", "3.1.3"): [], Pin("colorama", "0.4.6"): []}
HOLES = {KNOWN_BAD: ["GHSA-q2x7-8rv6-6q7h"]}

# What pip-audit 2.10 does where its source answers 404, where nothing answers, where the source is a mirror without
# advisories, and where all is well: its report or none, and its exit status.
PRETENDED = {
    "skips": "print('ERROR:pip_audit._cli:flask: Dependency not found on PyPI', file=sys.stderr); sys.exit(1)",
    "unreachable": "raise OSError('Failed to establish a new connection')",
    "mirror": "report(lambda name: [])",
    "works": "report(lambda name: [{'id': 'GHSA-q2x7-8rv6-6q7h'}] if name == 'jinja2' else [])",
}


def pretended(how: str, folder: Path) -> tuple[str, str]:
    """Return the command of a program that behaves as pip-audit does there."""
    program = folder / "pip_audit.py"
    program.write_text(
        dedent("""
            import json, pathlib, sys
            asked = pathlib.Path(sys.argv[sys.argv.index("--requirement") + 1]).read_text().split()
            assert {"--strict", "--no-deps", "--disable-pip", "--cache-dir"} <= set(sys.argv)

            def report(vulns_of):
                pins = [line.split("==") for line in asked]
                found = [{"name": name, "version": version, "vulns": vulns_of(name)} for name, version in pins]
                print(json.dumps({"dependencies": found, "fixes": []}))
                sys.exit(any(entry["vulns"] for entry in found))
        """)
        + PRETENDED[how]
    )
    return sys.executable, str(program)


def answers(report: Report) -> Report:
    """Return the report of a source with these advisories and the known one."""
    return {**HOLES, **report}


def asking(report: Report):
    known = answers(report)

    def ask(pins: Sequence[Pin]) -> Report:
        return {pin: known[pin] for pin in pins if pin in known}

    return ask


@pytest.mark.parametrize("how", ["skips", "unreachable", "mirror"])
def test_advisories_that_cannot_be_read_are_no_pass(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unreachable source and one without advisories both give status 2 and the reason."""
    assert main(partial(pip_audit, command=pretended(how, tmp_path))) == 2
    assert capsys.readouterr().err.startswith("NOT AUDITED: ")


def test_pip_audit_that_is_not_installed_is_no_pass() -> None:
    """A missing program is reported like a missing source."""
    assert main(partial(pip_audit, command=("/nonexistent/pip-audit",))) == 2


def test_all_pins_are_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of CUDA and those for other systems too; a source that knows jinja2 3.1.4 and nothing else is a pass."""
    assert main(partial(pip_audit, command=pretended("works", tmp_path))) == 1
    printed = capsys.readouterr().out
    assert f"{len(read_pins(RUN, CUDA))} pins audited, 1 with known vulnerabilities" in printed
    assert "jinja2" in printed  # the program takes every release of it for bad


def test_a_pin_that_the_source_does_not_know_is_no_pass() -> None:
    """What was not looked up is named."""
    with pytest.raises(NotAuditedError, match=r"1 of 3 pins were not looked up: nobody 1\.0"):
        audit([*GOOD, Pin("nobody", "1.0")], asking(GOOD))


def test_a_source_without_a_known_vulnerability_is_no_pass() -> None:
    """A mirror may have the packages and not the advisories."""
    with pytest.raises(NotAuditedError, match="no vulnerability of jinja2"):
        audit([*GOOD], asking({**GOOD, KNOWN_BAD: []}))


def test_vulnerable_pins_are_named_and_none_is_a_pass() -> None:
    """The result has vulnerable pins only; a pin that only some systems take is looked up like any other."""
    assert audit([Pin("flask", "3.1.3"), Pin("colorama", "0.4.6", everywhere=False)], asking(GOOD)) == {}
    bad = {Pin("flask", "3.1.3"): ["CVE-1"]}
    assert audit([*bad], asking(bad)) == bad
