"""Which values of `multipleOf` the grammar library can hold numbers to.

It computes with a number of 32 bits and a power of ten, and follows every remainder of that number while it compiles,
outside of its own limits of work: seconds for six digits, no end for some of more.
"""

from __future__ import annotations

LARGEST = 2**32 - 1
MOST_REMAINDERS = 10_000  # 50 ms
DIGITS, LARGE = "a number of too many digits", f"a number with more than {MOST_REMAINDERS} remainders"


def trouble(multiple: float) -> str | None:
    """Return what is wrong with a value above zero, as the part of a sentence; None where it can be enforced."""
    digits = _digits(multiple)
    if digits is None:
        return DIGITS
    return LARGE if digits > MOST_REMAINDERS and not _is_power_of_ten(digits) else None


def _digits(multiple: float) -> int | None:
    """Return a number without its point, None for one that the library does not read."""
    scaled = multiple
    while scaled <= LARGEST and scaled != int(scaled):
        scaled *= 10
    return int(scaled) if scaled <= LARGEST else None


def _is_power_of_ten(number: int) -> bool:
    return f"{number}".rstrip("0") == "1"
