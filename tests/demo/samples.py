"""The targets of a sample of held-out items."""

import math

STANDARD_ERRORS = 2


def percent(marks):
    """Return the share of right answers in percent."""
    return 100 * sum(marks) / len(marks)


def at_least(target, count):
    """Return the target in percent, less the sampling error of `count` items."""
    return target - STANDARD_ERRORS * math.sqrt(target * (100 - target) / count)
