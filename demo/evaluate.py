"""Evaluate both demo checkpoints on held-out data: `python -m demo.evaluate [--share 1.0]`.

Prints a table. Exits with 1 when a target is missed or a checkpoint is too large, with 2 when a training item is among
the evaluated ones.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from demo import evaluate_images as images
from demo import evaluate_text as texts
from demo.image_data import TRAINING_SEEDS
from demo.train_avibe import STAGES

SEED = 1
SAMPLING_SEEDS = range(5)
TEMPERATURE = 0.7
SAMPLED_SLACK = 2.0
MAX_BYTES = 10_000_000
TEXT_TARGETS = {
    "listing": 98.0,
    "price": 98.0,
    "unseen words": 95.0,
    "title": 97.0,
    "category": 95.0,
    "price format": 95.0,
    "off topic": 95.0,
    "long off topic": 95.0,
}
IMAGE_TARGETS = {
    "trained": 97.0,
    "outside": 96.0,
    "clean": 99.0,
    "grey": 95.0,
    "plain": 95.0,
    "unclear": 95.0,
    "two images": 93.0,
}
EXIT_MISSED, EXIT_LEAK = 1, 2


Item = texts.TextItem | images.ImageItem
ItemT = TypeVar("ItemT", contravariant=True)


class Model(Protocol[ItemT]):
    """A checkpoint that answers held-out items."""

    def judge(self, items: Sequence[ItemT], temperature: float = 0.0, seed: int = 0) -> list[bool]:
        """Return whether each item was answered right."""


class LeakageError(Exception):
    """A training item is among the held-out ones."""


@dataclass(frozen=True)
class Result:
    """The result of one group of items; `target` is in percent."""

    name: str
    right: int
    total: int
    target: float

    @property
    def percent(self) -> float:
        """Return the share of right answers in percent."""
        return 100 * self.right / self.total

    @property
    def met(self) -> bool:
        """Return whether the target is reached."""
        return self.percent >= self.target


def share_of(text: str) -> float:
    """Return a share from the command line. Raises ArgumentTypeError unless it is above 0 and at most 1."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0 and at most 1")
    return share


def scaled(count: int, share: float) -> int:
    """Return a share of a group's items; one at least, since nothing can be said of a group without any."""
    return max(1, round(count * share))


def text_items(share: float) -> list[texts.TextItem]:
    """Return the held-out messages; `share` scales every group."""
    items = []
    for group, count in (("listing", 400), ("price", 200), ("unseen words", 200)):
        items += texts.listing_items(group, scaled(count, share), SEED)
    for others in (texts.title_items, texts.category_items, texts.price_items):
        items += others(scaled(200, share), SEED)
    return items + texts.refusal_items(max(12, round(70 * share))) + texts.long_items(max(4, round(40 * share)), SEED)


def image_items(share: float) -> list[images.ImageItem]:
    """Return the held-out images; `share` scales every group."""
    items = []
    for group, count in (
        ("trained", 600),
        ("outside", 600),
        ("clean", 300),
        ("grey", 120),
        ("plain", 100),
        ("unclear", 200),
    ):
        items += images.image_items(group, scaled(count, share), SEED)
    return items + images.two_image_items(scaled(120, share), SEED)


def training_keys(folder: Path = texts.FOLDER) -> set[str]:
    """Return every key that the recorded training stages taught, by replaying their streams."""
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    stages = ((run["dialogues"], run["seed"], STAGES[run["stage"]].weights) for run in record)
    return set().union(*(texts.training_keys(*stage) for stage in stages))


def check_split(items: Iterable[texts.TextItem], shown: Iterable[images.ImageItem], taught: set[str]) -> None:
    """Raise LeakageError when a message was taught or an image's seed is one that training draws from."""
    for item in items:
        if item.key in taught:
            raise LeakageError(f"training item in the evaluation: text {item.key!r}")
    for shown_item in shown:
        for seed in shown_item.seeds:
            if seed < TRAINING_SEEDS:
                raise LeakageError(f"training item in the evaluation: image seed {seed}")


def rows_by_group(items: Sequence[Item], right: Sequence[bool], targets: dict[str, float], prefix: str) -> list[Result]:
    """Return one row for each group of items."""
    rows = []
    for group, target in targets.items():
        marks = [mark for item, mark in zip(items, right, strict=True) if item.group == group]
        rows.append(Result(f"{prefix}: {group}", sum(marks), len(marks), target))
    return rows


def sampled_row(model: Model[ItemT], items: Sequence[ItemT], greedy: Result) -> Result:
    """Return the row of the same items sampled at TEMPERATURE; the target is the greedy one less the slack."""
    marks = [mark for seed in SAMPLING_SEEDS for mark in model.judge(items, TEMPERATURE, seed)]
    return Result(f"{greedy.name}, sampled", sum(marks), len(marks), greedy.target - SAMPLED_SLACK)


def evaluate(share: float = 1.0) -> list[Result]:
    """Check the split, ask everything and return the rows."""
    asked, shown = text_items(share), image_items(share)
    check_split(asked, shown, training_keys())
    text_model, image_model = texts.TextModel(), images.ImageModel()
    rows = rows_by_group(asked, text_model.judge(asked), TEXT_TARGETS, "text")
    rows.insert(1, sampled_row(text_model, [item for item in asked if item.group == "listing"], rows[0]))
    found = rows_by_group(shown, image_model.judge(shown), IMAGE_TARGETS, "images")
    for index, group in ((3, "clean"), (2, "outside"), (1, "trained")):
        found.insert(index, sampled_row(image_model, [item for item in shown if item.group == group], found[index - 1]))
    return rows + found


def checkpoint_bytes() -> int:
    """Return the size of both checkpoint folders in bytes."""
    return sum(
        path.stat().st_size for folder in (texts.FOLDER, images.FOLDER) for path in folder.rglob("*") if path.is_file()
    )


def print_table(rows: Sequence[Result]) -> None:
    """Print the rows as a Markdown table."""
    print("| held-out group | right | of | % | target % | |\n|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.name} | {row.right} | {row.total} | {row.percent:.1f} | {row.target:.1f} |"
            f" {'met' if row.met else 'MISSED'} |"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the evaluation and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=share_of, default=1.0, help="share of the held-out items to ask")
    share = parser.parse_args(arguments).share
    torch.set_num_threads(1)
    started = time.monotonic()
    try:
        rows = evaluate(share)
    except LeakageError as error:
        print(error, file=sys.stderr)
        return EXIT_LEAK
    print_table(rows)
    size = checkpoint_bytes()
    print(
        f"\ncheckpoints: {size / 1e6:.2f} MB together (limit {MAX_BYTES / 1e6:.0f});"
        f" {time.monotonic() - started:.0f} s on one thread"
    )
    missed = [row.name for row in rows if not row.met] + (["size"] if size > MAX_BYTES else [])
    if missed:
        print("missed: " + "; ".join(missed), file=sys.stderr)
    return EXIT_MISSED if missed else 0


if __name__ == "__main__":
    sys.exit(main())
