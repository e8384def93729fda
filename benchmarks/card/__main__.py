"""Measure on a card what no other machine can show.

    python -m benchmarks.card [--parts facts,linear,load] [--results DIR] [--command-minutes 9.5]

Each part runs in a process of its own, with a limit of its own, so that one that crashes or hangs leaves the others
their card; it prints each row when it is measured. A part that does not fit into what is left of the
command's minutes is left to the next command, which begins no part that has a record of this commit and card.

Exit status: 0 if every part is measured and right, 1 if one went wrong, 2 without CUDA, 3 if some are left. `--device
cpu --tiny` tries the program itself, as the tests do. Needs the service's packages for the engine; no file is read.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

from benchmarks.card.processes import ended_within
from benchmarks.card.record import UNFINISHED, Options, PartRecord, Rows, measure, read_record
from benchmarks.harness.record import state_of
from settings.gpus import configure_allocator

ROOT = Path(__file__).parents[2]
# Minutes of each part, its start included: three commands of 9.5 minutes hold them all.
PARTS = {
    "facts": 0.5,
    "kernel_tests": 4.25,
    "gpu_tests": 3.0,
    "load": 1.5,
    "long_row": 1.25,
    "defaults": 2.0,
    "profile": 1.0,
    "both": 1.75,
    "flat_steps": 2.0,
    "rows": 0.5,
    "sampling": 0.75,
    "graphs": 0.5,
    "attention": 0.75,
    "linear": 1.25,
    "skinny": 1.25,
    "packed": 2.75,
    "paged_attention": 1.5,
    "few_rows": 1.25,
}
COMMAND_MINUTES = 9.5
LAST_ROW = 0.25  # minutes of a part's limit that are left for the row in progress
WRONG, NO_DEVICE, LEFT = 1, 2, 3


def run_part(name: str, options: Options) -> Rows:
    """Yield the rows of a part, found by its name: that of its module and of its function."""
    yield from getattr(importlib.import_module(f"benchmarks.card.{name}"), name)(options)


def run_here(names: Sequence[str], options: Options) -> int:
    """Run parts in this process; return how many went wrong."""
    origin = origin_of(options)
    return sum(bool(measure(name, partial(run_part, name), options, origin).error) for name in names)


def origin_of(options: Options) -> dict[str, str]:
    """Return what the parts of this process are measured on."""
    import torch

    card = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    return {**found_here(card), "torch": torch.__version__}


def found_here(card: str) -> dict[str, str]:
    """Return what is known of a measurement without torch."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"card": card, "date": date, "commit": state_of(ROOT)["commit"]}


@cache
def card_of(device: str) -> str:
    """Return the card's name, "" without one; asked by another process, since this one shall hold no memory of it."""
    if device == "cpu":
        return "CPU"
    program = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def run_apart(name: str, options: Options, seconds: float) -> int:
    """Run one part in a process of its own, of whose group nothing outlives `seconds`; return its exit status.

    A record that the process could not finish says why.
    """
    command = [sys.executable, "-m", "benchmarks.card", "--here", "--parts", name, "--device", options.device]
    command += ["--minutes", str(options.minutes), "--results", str(options.results), *["--tiny"] * options.tiny]
    # Without a card, Triton's interpreter runs its kernels.
    environment = os.environ if options.device == "cuda" else {**os.environ, "TRITON_INTERPRET": "1"}
    PartRecord(name, found_here(card_of(options.device))).write(options.results)
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, start_new_session=True)
    try:
        status = ended_within(process, seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    record = read_record(options.results, name)
    if record is not None and record.error == UNFINISHED:
        record.error = f"stopped after {seconds:.0f} s" if status is None else f"its process ended with status {status}"
        print(f"{name} failed: {record.error}", flush=True)
        record.write(options.results)
    return WRONG if status is None else status


def measured_before(name: str, options: Options) -> PartRecord | None:
    """Return the record of a part that ended by itself on this card at this commit, None if there is none."""
    record, origin = read_record(options.results, name), found_here(card_of(options.device))
    if record is None or record.error == UNFINISHED:
        return None
    return record if all(record.origin.get(key) == origin[key] for key in ("card", "commit")) else None


def run_all(parsed: argparse.Namespace) -> int:
    """Run the parts that are not measured yet, as long as they fit into the command's minutes."""
    end, wrong, left = time.monotonic() + parsed.command_minutes * 60, [], []
    for name in parsed.parts:
        limit = parsed.minutes or PARTS[name]
        options = options_of(parsed, max(limit - LAST_ROW, limit / 2))
        before = None if parsed.again else measured_before(name, options)
        if before is not None:
            print(f"{name} has been measured, {before.error or 'rightly'}; --again measures it anew", flush=True)
            wrong += [name] * bool(before.error)
        elif time.monotonic() + limit * 60 > end:
            left.append(name)
        else:
            wrong += [name] * bool(run_apart(name, options, limit * 60))
    if left:
        print(f"The same command, given again, runs those that did not fit into its minutes: {', '.join(left)}")
    if wrong:
        print(f"Not as it should be: {', '.join(wrong)}")
    return WRONG if wrong else LEFT if left else 0


def options_of(parsed: argparse.Namespace, minutes: float) -> Options:
    """Return the options of one part."""
    return Options(parsed.device, parsed.tiny, minutes, parsed.results.resolve())


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the program")
    parser.add_argument("--minutes", type=float, help="of each part, by default its own")
    parser.add_argument("--command-minutes", type=float, default=COMMAND_MINUTES, help="of all parts of this command")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "card")
    parser.add_argument("--again", action="store_true", help="measure again what has a record")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args(argv)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if (options.minutes or 0) > options.command_minutes and not options.here:
        parser.error("no part can have more --minutes than --command-minutes")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; return the exit status."""
    parsed = arguments(argv)
    if parsed.here:
        return min(WRONG, run_here(parsed.parts, options_of(parsed, parsed.minutes or COMMAND_MINUTES)))
    if not card_of(parsed.device):
        print("No CUDA device is available; try the program with --device cpu --tiny.", file=sys.stderr)
        return NO_DEVICE
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the part ends too
    return run_all(parsed)


if __name__ == "__main__":
    configure_allocator(os.environ)  # before torch is imported, which reads it
    sys.exit(main())
