"""The tables of one part, written as its rows come, so that a run that is killed keeps what it measured."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.record import table

Cell = str | float | int | None
Row = dict[str, Cell]
# A part yields the name of a table and a row of it.
Rows = Iterator[tuple[str, Row]]
PROBLEMS = "problems"  # the table of what is wrong
WRITING = 0.1  # of a part's time at most, since all rows are written anew
UNFINISHED = "it has not ended: the table is cut"


@dataclass(frozen=True, slots=True)
class Options:
    """How the parts measure. device: `cuda` or `cpu`; tiny: small shapes, to try the program; minutes: of one part."""

    device: str = "cuda"
    tiny: bool = False
    minutes: float = 3.0
    results: Path = Path("card")

    def pick(self, full: int, tiny: int) -> int:
        """Return the number for this run."""
        return tiny if self.tiny else full


Part = Callable[[Options], Rows]


@dataclass(slots=True)
class PartRecord:
    """What one part has measured so far.

    origin: card, date, commit; error: what went wrong, "" if nothing did; UNFINISHED as long as the part runs, and ever
    after if it was killed.
    """

    name: str
    origin: dict[str, str]
    tables: dict[str, list[Row]] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = UNFINISHED

    def markdown(self) -> str:
        """Return the tables for readers."""
        origin = ", ".join(f"{name} {value[:25]}" for name, value in self.origin.items())
        parts = [f"# {self.name}", f"Measured in {self.seconds:.0f} s: {origin}."]
        for title, rows in self.tables.items():
            columns = list(dict.fromkeys(key for row in rows for key in row))
            parts.append(f"## {title}")
            parts.append(table(columns, [[shown(row.get(key)) for key in columns] for row in rows]))
        if self.error:
            parts.append(f"Not as it should be: {self.error}")
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> None:
        """Write NAME.json and NAME.md."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"part": self.name, "origin": self.origin, "seconds": self.seconds, "error": self.error}
        written = json.dumps({**content, "tables": self.tables}, indent=1, ensure_ascii=False)
        for kind, text in (("json", written + "\n"), ("md", self.markdown())):
            (folder / f"{self.name}.{kind}.new").write_text(text, encoding="utf-8")
            os.replace(folder / f"{self.name}.{kind}.new", folder / f"{self.name}.{kind}")


def read_record(folder: Path, name: str) -> PartRecord | None:
    """Return the record of a part, None if there is none that can be read."""
    try:
        found = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return PartRecord(name, found["origin"], found["tables"], found["seconds"], found["error"])
    except (OSError, ValueError, KeyError):
        return None


def problem(what: str) -> tuple[str, Row]:
    """Return a row that tells what is wrong; the part goes on, and its record and exit status say so."""
    return PROBLEMS, {"what": what}


def is_right(row: Row, most: float) -> bool:
    """Return whether a kernel was timed and its error is at most that; an error that is no number is not."""
    return "us" in row and float(str(row["error"])) <= most


def told(table_name: str, row: Row, most: float) -> Rows:
    """Yield a kernel's row, and a problem if its result is wrong; what the card refuses is none."""
    yield table_name, row
    if "error" in row and not is_right(row, most):
        yield problem(f"{table_name}: {described(row)}")


def told_if_none_ran(table_name: str, rows: Sequence[Row]) -> Rows:
    """Yield a problem if every variant of a kernel was refused: a card may be too small for one, but not for all."""
    if rows and not any("us" in row for row in rows):
        yield problem(f"{table_name}: no variant ran, the first: {described(rows[0])}")


def measure(name: str, part: Part, options: Options, origin: dict[str, str]) -> PartRecord:
    """Run one part until it ends, raises or has used its minutes; print and write each row as it comes."""
    record, began, reason = PartRecord(name, origin), time.monotonic(), ""
    print(f"== {name}", flush=True)
    record.write(options.results)
    next_writing = 0.0
    try:
        for title, row in part(options):
            record.tables.setdefault(title, []).append(row)
            record.seconds = time.monotonic() - began
            print(f"{title}: {'  '.join(f'{key} {shown(value)}' for key, value in row.items())}", flush=True)
            if record.seconds >= next_writing:
                record.write(options.results)
                took = time.monotonic() - began - record.seconds
                next_writing = record.seconds + took / WRITING
            if record.seconds > options.minutes * 60:
                reason = f"{options.minutes:g} minutes were over"
                break
    except Exception as error:  # the next part goes on
        reason = f"{type(error).__name__}: {error}"
    wrong = [str(row["what"]) for row in record.tables.get(PROBLEMS, [])]
    record.error = "; ".join(filter(None, (reason, *wrong)))
    if record.error:
        print(f"{name} failed: {record.error}", flush=True)
    record.seconds = time.monotonic() - began
    record.write(options.results)
    return record


def described(row: Row) -> str:
    """Return a row in one line."""
    return ", ".join(f"{name} {shown(value)}" for name, value in row.items())


def shown(value: Cell) -> str:
    """Return a cell for readers."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)
