"""The verdicts of figures that have a target, and the exit status of a program that follows from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Word(StrEnum):
    """The word of a verdict. A figure that is not comparable was measured, but of requests that partly failed."""

    MET = "met"
    MISSED = "missed"
    NOT_COMPARABLE = "not comparable"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, what was found, and whether that meets it."""

    target: str
    word: Word
    found: str

    def __str__(self) -> str:
        return f"Target: {self.target}: {self.word} ({self.found})."


def judged(target: str, holds: bool, found: str) -> Verdict:
    """Return the verdict of a target that was measured."""
    return Verdict(target, Word.MET if holds else Word.MISSED, found)


def exit_status(words: Iterable[str]) -> int:
    """Return 1 if a target that was measured is not met, otherwise 0."""
    return int(any(word not in (Word.MET, Word.NOT_MEASURED) for word in words))
