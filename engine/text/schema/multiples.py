"""Which values of `multipleOf` the grammar library can hold numbers to, and how many remainders it follows for one.

It computes with a number of 32 bits and a power of ten, and follows every remainder of that number while it compiles,
outside of its own limits of work and memory: seconds for six digits, no end for some of more. It is given one number
only: of several, it would follow the remainders of their product.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd, lcm

LARGEST = 2**32 - 1
MOST_REMAINDERS = 10_000  # 50 ms
DIGITS, LARGE = "a number of too many digits", f"a number with more than {MOST_REMAINDERS} remainders"
_WRITTEN = re.compile(r'multipleOf\\*": ?(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)')  # in JSON, or in JSON that is quoted there


def exact(value: float) -> Fraction:
    """Return a number as it is written."""
    return Fraction(repr(value))


def common(one: Fraction | None, other: Fraction | None) -> Fraction | None:
    """Return the number whose multiples are those of both numbers, None being none."""
    if one is None or other is None:
        return other if one is None else one
    return Fraction(lcm(one.numerator, other.numerator), gcd(one.denominator, other.denominator))


def written(multiple: Fraction) -> float:
    """Return a number as JSON has it; infinity for one beyond what the library reads."""
    if multiple > LARGEST:
        return float("inf")
    return int(multiple) if multiple.denominator == 1 else float(multiple)


def trouble(multiple: float) -> str | None:
    """Return what is wrong with a value above zero, as the part of a sentence; None where it can be enforced."""
    digits = _digits(multiple)
    if digits is None:
        return DIGITS
    return LARGE if digits > MOST_REMAINDERS and not _is_power_of_ten(digits) else None


def remainders(multiple: float) -> int:
    """Return how many remainders the library follows for a number: of a power of ten, no more than it has digits."""
    digits = _digits(multiple)
    if digits is None:
        return 0
    return len(f"{digits}") if _is_power_of_ten(digits) else digits


def remainders_in(grammar: str) -> int:
    """Return how many remainders the library follows at most for a grammar that has rules of JSON in it."""
    return sum(remainders(float(found)) for found in _WRITTEN.findall(grammar))


def _digits(multiple: float) -> int | None:
    """Return a number without its point, None for one that the library does not read."""
    scaled = multiple
    while scaled <= LARGEST and scaled != int(scaled):
        scaled *= 10
    return int(scaled) if scaled <= LARGEST else None


def _is_power_of_ten(number: int) -> bool:
    return f"{number}".rstrip("0") == "1"
