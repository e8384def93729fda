"""Make a benchmark checkpoint: random weights in a real architecture, seeded, so that everybody gets the same folder.

    python -m benchmarks.make_model FOLDER [--kind text|vision|wide|qwen3-0.6b] [--tokenizer FOLDER] [--tiny]

text: Qwen3 with 39 million parameters; vision: a small Qwen2.5-VL; wide: two layers of Qwen3-0.6B's shape, with as many
tokens; qwen3-0.6b: all of its 28 layers (1.2 GB), with the small tokenizer padded to as many tokens, or the one in
--tokenizer. No configuration names an end token; the tokenizer does.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.checkpoints import MAKERS, SMALL_QWEN3, make_small_qwen3


def main(argv: Sequence[str] | None = None) -> None:
    """Make one checkpoint, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=MAKERS, default="text")
    parser.add_argument("--tokenizer", type=Path, help=f"folder of the tokenizer of {SMALL_QWEN3}")
    parser.add_argument("--tiny", action="store_true", help=f"two narrow layers of {SMALL_QWEN3}, to try the program")
    options = parser.parse_args(argv)
    if options.kind == SMALL_QWEN3:
        make_small_qwen3(options.folder, options.tokenizer, options.tiny)
    elif options.tokenizer or options.tiny:
        parser.error(f"--tokenizer and --tiny are of --kind {SMALL_QWEN3}")
    else:
        MAKERS[options.kind](options.folder)
    print(f"{options.kind} checkpoint in {options.folder}")


if __name__ == "__main__":
    main()
