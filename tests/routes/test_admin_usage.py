"""The operator's page of usage, and its charts."""

import re
import time

import pytest

from edge.services import services
from routes.bars import reach, stacked
from usage.record import UsageRecord
from usage.store import add
from usage.sums import summed


@pytest.fixture
def environ(environ, tmp_path):
    return environ | {"STATE_DIR": str(tmp_path), "PRICES": "1/2", "CURRENCY": "EUR"}


@pytest.fixture
def used(app):
    """Usage of two accounts and models, just now."""
    records = [
        UsageRecord("1", time.time(), "key:a", "avibe", "api", "shop", 1000, 2000, 100, 0, 5000, 5_000_000),
        UsageRecord("2", time.time(), "192.0.2.1", "avision", "form", input_tokens=5, images=1, failure="model_error"),
    ]
    assert add(services(app).database.engine(), "journal", 0, 1, summed(records))


@pytest.mark.parametrize("language", ["en", "ru"])
def test_usage_is_shown_by_model_and_account(client, used, language):
    """With totals, cost in the operator's currency, and a chart of each figure that can be read as text."""
    page = client.get("/status/usage", headers={"Accept-Language": language}).text
    for text in ("shop", "key:a", "192.0.2.1", "EUR", "avision: ", '<rect class="bar-0"', '<rect class="bar-1"'):
        assert text in page
    assert ("<dd>2,000</dd>" if language == "en" else "<dd>2\N{NO-BREAK SPACE}000</dd>") in page
    assert len(re.findall("<figure", page)) == 3


@pytest.mark.parametrize(
    ("cost", "shown"), [(7, "0.000007"), (999_999, "0.999999"), (500_000, "0.5"), (1_234_567, "1.23")]
)
def test_a_small_cost_is_shown_to_the_millionth(app, client, cost, shown):
    """No answer that has a price seems to have none."""
    used = UsageRecord("1", time.time(), "key:a", "avibe", "api", cost=cost)
    assert add(services(app).database.engine(), "journal", 0, 1, summed([used]))
    assert f"<dd>{shown}</dd>" in client.get("/status/usage").text


def test_one_account_is_chosen_by_its_link(client, used):
    """Only its figures are left; a span that is unknown is a month."""
    page = client.get("/status/usage").text
    (link,) = [one for one in re.findall(r'href="([^"]+)"', page) if "account=key" in one and "model" not in one]
    chosen = client.get(link.replace("&amp;", "&")).text
    assert "192.0.2.1" not in chosen
    assert "shop" in chosen
    assert client.get("/status/usage?span=century").status_code == 200


def test_nothing_used_is_said(client):
    """No empty chart."""
    page = client.get("/status/usage?account=<b>").text
    assert "Nothing was used in this time." in page
    assert "<figure" not in page
    assert "<b>" not in page.replace("<b> ", "")


def test_bars_stand_on_each_other_within_the_box():
    """Each period's bars end at its sum; the axis ends at a round number above all of them."""
    chart = stacked({"a": [1, 0, 3], "b": [2, 0, 0]}, ["x", "y", "z"], str, 2)
    assert [(bar.x, bar.y, bar.height) for bar in chart.bars] == [(3.33, 75, 25), (70.0, 25, 75), (3.33, 25, 50)]
    assert chart.ticks == ["4.0", "2.0", "0"]
    assert chart.dates == ["x", "y", "z"]
    assert [bar.title for bar in chart.bars] == ["x, a: 1", "z, a: 3", "x, b: 2"]


@pytest.mark.parametrize(("value", "end"), [(0.01, 0.01), (3, 4), (4.5, 5), (7, 10), (1001, 2000)])
def test_an_axis_ends_at_a_round_number(value, end):
    """1, 2, 4 or 5 times a power of ten."""
    assert reach(value) == pytest.approx(end)
