"""Amounts of money and prices in settings."""

import pytest

from settings import money

MODELS = ("avibe", "avision")


@pytest.mark.parametrize(
    ("text", "millionths"), [("25", 25_000_000), ("0.5", 500_000), ("0.000001", 1), ("999999999", 999_999_999_000_000)]
)
def test_an_amount_is_read_and_shown_without_rounding(text, millionths):
    """No float is between the text and the whole number of millionths, nor on the way back."""
    kind = money.amount()
    assert kind.parse(text) == millionths
    assert kind.show(millionths) == text


@pytest.mark.parametrize(
    "text", ["0", "0.000000", "-1", "1e3", "nan", "1,5", "0.0000001", "", "1.", ".5", "١", "1 000"]
)
def test_what_is_no_amount_is_refused(text):
    """Zero is no budget, and nothing is read that could be read in two ways."""
    with pytest.raises(ValueError, match=".*"):
        money.amount().parse(text)


def test_prices_are_read_for_both_models_or_each():
    """Prompt tokens of a cache cost as much as others unless they have a price of their own."""
    kind = money.prices()
    assert kind.parse("0.2/0.6") == dict.fromkeys(MODELS, (200_000, 600_000, 200_000))
    assert kind.parse("avibe=0.2/0.6/0, avibe@v2=1/2") == {
        "avibe": (200_000, 600_000, 0),
        "avibe@v2": (1_000_000, 2_000_000, 1_000_000),
    }


@pytest.mark.parametrize("text", ["0.2/0.6", "avibe=0.2/0.6/0.05,avision=0.4/1.2", "avibe=0/0"])
def test_shown_prices_are_read_as_the_same(text):
    """What is printed can be set again."""
    kind = money.prices()
    assert kind.parse(kind.show(kind.parse(text))) == kind.parse(text)


@pytest.mark.parametrize(
    "text",
    ["0.2", "0.2/", "1/2/3/4", "avibe=1/2,avibe=1/2", "a/b=1/2", "avibe@=1/2", "avibe@a b=1/2", "avibe=-1/2", "="],
)
def test_what_is_no_list_of_prices_is_refused(text):
    """A name that none can have, too."""
    with pytest.raises(ValueError, match=".*"):
        money.prices().parse(text)


def test_a_webhook_is_shown_without_its_path():
    """The path of a webhook is what lets others post to it."""
    kind = money.webhook()
    address = "https://me:pass@hooks.example.com:8443/T0/B0/secret?token=1"  # pragma: allowlist secret
    assert kind.show(kind.parse(address)) == "https://hooks.example.com/********"
