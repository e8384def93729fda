"""Regenerates what is derived from the declarations: `python -m settings.generate` after a change in `settings.groups`.

It rewrites `.env.example`, and the table in docs/settings.md, whose other text stays as it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from settings.example import env_example
from settings.table import Setting, markdown

ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"^\| setting \|.*\n(?:\|.*\n?)*", re.MULTILINE)


def generate(settings: tuple[Setting, ...], root: Path) -> None:
    """Write both files below `root`."""
    (root / ".env.example").write_text(env_example(settings), encoding="utf-8")
    page = root / "docs/settings.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(TABLE.sub(lambda _: markdown(settings) + "\n", text), encoding="utf-8")


if __name__ == "__main__":
    from config import SETTINGS
    from terminal import end_quietly

    end_quietly()
    generate(SETTINGS, ROOT)
