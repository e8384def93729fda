"""The longest prompt that fits is found in a few looks, each of which renders and counts a conversation."""

import math
import random

import pytest

from routes.context_fit import _first


def lengths_of(sizes):
    """Return the tokens of each prompt: without any message of so many tokens, without the first, and so on."""
    return [sum(sizes[start:]) for start in range(len(sizes))]


def found(lengths, most, too_long=math.inf):
    """Return the first that fits as it is found, and how many looks that took."""
    looks = []

    def length(number):
        looks.append(number)
        return None if lengths[number] > too_long else lengths[number]

    first = length(0)
    return _first(length, first, len(lengths) - 1, most), len(looks)


@pytest.mark.parametrize("seed", range(200))
def test_the_first_that_fits_is_found(seed):
    """Whatever lengths the messages have, and though some prompts are too long to be counted."""
    chance = random.Random(seed)
    sizes = [chance.choice((1, 5, 50, 3000)) for _ in range(chance.randint(2, 400))]
    lengths = lengths_of(sizes)
    most = chance.randrange(lengths[0])
    too_long = chance.choice((math.inf, most, 2 * most))
    right = next((number for number, length in enumerate(lengths) if length <= most), len(lengths) - 1)
    number, looks = found(lengths, most, too_long)
    assert number == right
    assert looks <= 2 * math.ceil(math.log2(len(lengths))) + 3


@pytest.mark.parametrize("share", [0.01, 0.3, 0.75, 0.99])
def test_messages_that_are_alike_need_few_looks(share):
    """Where a search by halves needs ten."""
    chance = random.Random(1)
    lengths = lengths_of([chance.randint(25, 35) for _ in range(1023)])
    assert found(lengths, int(share * lengths[0]))[1] <= 6
