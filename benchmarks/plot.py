"""Draw the plot of a results file, here or on another machine: a PNG beside the JSON.

python -m benchmarks.plot benchmarks/results/NAME.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.harness.plot import draw

INSTALL = "pip install -r benchmarks/requirements.txt"


def main() -> int:
    """Draw one file's plot; return the exit status."""
    parser = argparse.ArgumentParser(description="Draw the plot of a results file.")
    parser.add_argument("results", type=Path, help="a JSON file in benchmarks/results")
    drawn = draw(parser.parse_args().results)
    print(drawn or f"matplotlib is missing: {INSTALL}")
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main())
