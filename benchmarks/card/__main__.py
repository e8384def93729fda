"""Measure on a card what no other machine can show.

    python -m benchmarks.card [--parts facts,linear,load] [--minutes 3] [--results DIR]

Each part runs in a process of its own, so that one that crashes or hangs leaves the others their card; it prints and
writes each row when it is measured. --minutes limits each part. Without CUDA the exit status is 2; `--device cpu
--tiny` tries the program itself, as the tests do. Needs the service's packages for the engine; no file is read.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.card.record import Options, Part, measure

ROOT = Path(__file__).parents[2]
PARTS = (
    "facts",
    "kernel_tests",
    "gpu_tests",
    "load",
    "long_row",
    "defaults",
    "profile",
    "both",
    "flat_steps",
    "rows",
    "sampling",
    "graphs",
    "attention",
    "linear",
    "skinny",
    "packed",
    "paged_attention",
    "few_rows",
)
NO_DEVICE = 2


def find_part(name: str) -> Part:
    """Return a part by its name, that of its module and of its function."""
    part: Part = getattr(importlib.import_module(f"benchmarks.card.{name}"), name)
    return part


def run_here(names: Sequence[str], options: Options) -> int:
    """Run parts in this process; return how many ended early."""
    import torch

    from benchmarks.harness.record import state_of

    card = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    origin = {
        "card": card,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": state_of(ROOT)["commit"],
        "torch": torch.__version__,
    }
    return sum(bool(measure(name, find_part(name), options, origin).error) for name in names)


def run_apart(name: str, options: Options) -> int:
    """Run one part in a process of its own, a minute longer than its minutes at most; return its exit status."""
    command = [sys.executable, "-m", "benchmarks.card", "--here", "--parts", name, "--device", options.device]
    command += ["--minutes", str(options.minutes), "--results", str(options.results), *["--tiny"] * options.tiny]
    # Without a card, Triton's interpreter runs its kernels.
    environment = os.environ if options.device == "cuda" else {**os.environ, "TRITON_INTERPRET": "1"}
    seconds = options.minutes * 60 + 60
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"{name} was stopped: it hung", flush=True)
        return 1


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the program")
    parser.add_argument("--minutes", type=float, default=3.0, help="of each part")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "card")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args(argv)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; return 2 without CUDA, 1 if a part ended early, else 0."""
    parsed = arguments(argv)
    options = Options(parsed.device, parsed.tiny, parsed.minutes, parsed.results.resolve())
    if parsed.here:
        return min(1, run_here(parsed.parts, options))
    if options.device == "cuda" and not _cuda_available():
        print("No CUDA device is available; try the program with --device cpu --tiny.", file=sys.stderr)
        return NO_DEVICE
    return min(1, sum(bool(run_apart(name, options)) for name in parsed.parts))


def _cuda_available() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
