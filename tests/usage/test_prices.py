"""What tokens cost."""

from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from settings.money import shown
from usage.prices import Price, Prices, as_money

# On a busy machine too, no test fails for the time that it takes.
CALM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

PRICES = st.integers(0, 10**9 * 10**6)
TOKENS = st.integers(0, 10**7)


@CALM
@given(PRICES, PRICES, PRICES, TOKENS, TOKENS, st.data())
def test_a_cost_is_rounded_once_half_up(new, output, cached, prompt_tokens, output_tokens, data):
    """It is what exact arithmetic gives, to the nearest millionth."""
    cached_tokens = data.draw(st.integers(0, prompt_tokens))
    exact = Decimal((prompt_tokens - cached_tokens) * new + cached_tokens * cached + output_tokens * output) / 10**6
    price = Price(new, output, cached)
    cost = price.cost(prompt_tokens, output_tokens, cached_tokens)
    assert cost == exact.to_integral_value(ROUND_HALF_UP)
    assert cost <= price.most(prompt_tokens, output_tokens)


def test_a_version_without_a_price_of_its_own_has_its_models():
    """A second version of a model is not free by accident."""
    prices = Prices({"avibe": (1, 2, 1), "avibe@v2": (3, 4, 3)})
    assert prices.of("avibe@v2") == Price(3, 4, 3)
    assert prices.of("avibe@v3") == prices.of("avibe") == Price(1, 2, 1)
    assert prices.of("avision") == Price()


def test_the_default_version_has_the_price_of_its_full_name():
    """What answers as the model is its default version; another version has the model's price, not the default's."""
    names = {"avibe": "avibe", "avibe@v1": "avibe", "avibe@v2": "avibe@v2"}
    prices = Prices({"avibe": (1, 1, 1), "avibe@v1": (5, 5, 5)}, names)
    assert prices.of("avibe") == Price(5, 5, 5)
    assert prices.of("avibe@v2") == Price(1, 1, 1)


def test_prices_of_nothing_are_none():
    """Where nothing costs anything, nothing shows a cost."""
    assert not Prices(None)
    assert not Prices({"avibe": (0, 0, 0)})
    assert Prices({"avibe": (0, 1, 0)})


@pytest.mark.parametrize(
    ("millionths", "text"), [(0, "0"), (1, "0.000001"), (123, "0.000123"), (2_500_000, "2.5"), (10_000_000, "10")]
)
def test_money_is_shown_without_rounding(millionths, text):
    """Every digit is shown, and no more zeros than a reader needs."""
    assert as_money(millionths) == text


@CALM
@given(st.integers(0, 10**18))
def test_answers_show_money_as_settings_do(millionths):
    """A budget reads the same in settings and in messages."""
    assert as_money(millionths) == shown(millionths)
    assert Decimal(as_money(millionths)) * 10**6 == millionths
