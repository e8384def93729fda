"""Make a benchmark checkpoint: random weights in a real architecture, seeded, so that everybody gets the same folder.

    python -m benchmarks.make_model FOLDER [--kind text|vision|wide]

text: Qwen3 with 39 million parameters; vision: a small Qwen2.5-VL; wide: two layers of Qwen3-0.6B's
shape, with as many tokens. None has an end token.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.harness.checkpoints import MAKERS


def main() -> None:
    """Make one checkpoint, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=MAKERS, default="text")
    arguments = parser.parse_args()
    MAKERS[arguments.kind](arguments.folder)
    print(f"{arguments.kind} checkpoint in {arguments.folder}")


if __name__ == "__main__":
    main()
