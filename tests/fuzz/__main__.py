"""Fuzz one target, guided by coverage: `python -m tests.fuzz TARGET [-max_total_time=1800] [-runs=N]`.

Needs atheris (tests/fuzz/requirements.txt). What it finds to cover more goes to tests/fuzz/found/TARGET, an input that
crashes the target to a file `crash-...` there: put that into corpus/TARGET, where every run of the tests tries it.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["edge", "engine", "routes", "serving", "werkzeug", "gunicorn", "PIL"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.seeds import CORPUS

LONGEST = 70_000  # bytes: enough for what is read in pieces


def main(target: str, *options: str) -> None:
    """Fuzz until the options say that it is enough."""
    found = CORPUS.parent / "found" / target
    found.mkdir(parents=True, exist_ok=True)
    arguments = [f"-artifact_prefix={found}/", f"-max_len={LONGEST}", "-timeout=20", *options, found, CORPUS / target]
    atheris.Setup([sys.argv[0], *map(str, arguments)], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
