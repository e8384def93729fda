"""Values of `multipleOf`: those that the library reads and compiles soon are held to, all others refused unasked."""

import pytest

from engine.text.schema.multiples import DIGITS, LARGE, trouble
from engine.text.schema.probe import Satisfiability, satisfiability


@pytest.mark.parametrize(
    "multiple",
    [1, 7, 60, 997, 10**6, 10**9, 2.0, 0.5, 0.25, 0.01, 0.0125, 0.001, 1e-7, 1e-9, 0.123, 12.345, 3.14159, 12.5]
    + [0.12345, 5.5555, 0.123456789, 1e-10, 1e-15, 1e-300, 5e-324, 2**32, 2**40, 10**12, 10**20, 1e300],
)
def test_what_has_too_many_digits_is_what_the_library_does_not_read(multiple):
    """The same is found without the library, which takes time in proportion to the number, or more."""
    unread = satisfiability({"type": "number", "multipleOf": multiple}) is not Satisfiability.FINE
    assert (trouble(multiple) == DIGITS) == unread


@pytest.mark.parametrize("multiple", [10_001, 86_400, 604_800, 999_983, 655_360, 2**31, 2**32 - 1, 999.99, 10**9 - 1])
def test_a_multiple_whose_remainders_take_seconds_is_refused(multiple):
    """Without the library, which would follow each of them and cannot be stopped."""
    assert trouble(multiple) == LARGE


@pytest.mark.parametrize("multiple", [10_000, 9_973, 3_600, 99.99, 100_000, 0.0001, 10**9])
def test_what_has_few_remainders_is_held_to(multiple):
    """Up to four digits, wherever the point stands, and every power of ten."""
    assert trouble(multiple) is None


@pytest.mark.parametrize("multiple", [10**400, 2**1024])
def test_a_multiple_beyond_every_float_is_refused(multiple):
    """It is no error of ours."""
    assert trouble(multiple) == DIGITS
