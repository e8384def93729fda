"""Reads the phrases that the demos are trained and evaluated on: JSON files in phrases/, one phrase a line.

The order within a list is part of the training data, because phrases are drawn by position.
"""

import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("phrases")

# By group and language ("en" or "ru"), or by language and group, as the file has it.
Phrases = dict[str, dict[str, list[str]]]


@cache
def load(name: str) -> Phrases:
    """Return the phrases of `name`.json. The lists are shared: do not change them."""
    phrases: Phrases = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return phrases
