"""Audits the pinned packages for known vulnerabilities with pip-audit, and verifies that its source is complete.

    python -m deploy.audit

pip-audit skips packages that its source does not know, and finds nothing in a source without advisories. Every pin must
therefore be in its report, and it must first find the vulnerability of a release that is known to have one. Exit
status: 0 no known vulnerability, 1 known vulnerabilities, 2 not audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from deploy.pins import CUDA, RUN, Pin, read_pins

KNOWN_BAD = Pin("jinja2", "3.1.4")  # CVE-2024-56326
SECONDS = 600
SHOWN = 10

Report = dict[Pin, list[str]]
"""The vulnerability ids of each release that was looked up."""


class NotAuditedError(Exception):
    """The audit could not be made; the message has the reason."""


def pip_audit(pins: Sequence[Pin], command: Sequence[str] = (sys.executable, "-m", "pip_audit")) -> Report:
    """Return the report of pip-audit. Raises NotAuditedError if there is none."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "pins.txt"
        listed.write_text("".join(f"{pin.name}=={pin.version}\n" for pin in pins), "utf-8")
        # Without a cache, so that an old result does not hide an unreachable source.
        options = ["--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        options += ["--cache-dir", folder, "--requirement", str(listed)]
        try:
            done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotAuditedError(f"pip-audit did not run: {error}") from error
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError) as error:
        raise NotAuditedError(f"pip-audit returned no report:\n{done.stderr.strip()[-2000:]}") from error
    return {_release(entry): [advisory["id"] for advisory in entry["vulns"]] for entry in found if "vulns" in entry}


def _release(entry: dict[str, Any]) -> Pin:
    return Pin(canonicalize_name(entry["name"]), entry["version"])


def audit(pins: Sequence[Pin], ask: Callable[[Sequence[Pin]], Report] = pip_audit) -> Report:
    """Return the pins with known vulnerabilities. Raises NotAuditedError if the source is incomplete."""
    asked = [Pin(pin.name, pin.version) for pin in pins]
    if not ask([KNOWN_BAD]).get(KNOWN_BAD):
        raise NotAuditedError(
            f"The source reports no vulnerability of {KNOWN_BAD.name} {KNOWN_BAD.version}, so it has no advisories."
        )
    report = ask(asked)
    unknown = [f"{pin.name} {pin.version}" for pin in asked if pin not in report]
    if unknown:
        more = ", ..." if len(unknown) > SHOWN else ""
        raise NotAuditedError(
            f"{len(unknown)} of {len(asked)} pins were not looked up: {', '.join(unknown[:SHOWN])}{more}"
        )
    return {pin: ids for pin, ids in report.items() if ids}


def main(ask: Callable[[Sequence[Pin]], Report] = pip_audit) -> int:
    pins = read_pins(RUN, CUDA)
    try:
        bad = audit(pins, ask)
    except NotAuditedError as error:
        print(f"NOT AUDITED: {error}", file=sys.stderr)
        return 2
    for pin, ids in sorted(bad.items()):
        print(f"{pin.name} {pin.version}: {', '.join(ids)}")
    print(f"{len(pins)} pins audited, {len(bad)} with known vulnerabilities")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
