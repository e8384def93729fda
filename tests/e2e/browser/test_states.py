"""Every state of the service on the page: what it shows, what it keeps, and what it retries."""

import re
import signal

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.conftest import UNLIMITED
from tests.e2e.browser.steps import TEXT, ask_text, finished, signalled, stored_stream
from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.needs("chromium")


def test_loading_shows_its_progress_and_sends_by_itself_when_ready(service, open_page):
    """A question before the models are ready waits on the page, which follows the state without a reload."""
    service.script(status="loading", progress=[4_000_000_000, 16_000_000_000])
    page = open_page(service.url)
    expect(page.locator("#state progress").first).to_have_attribute("value", "4000000000")
    exchange = ask_text(page, "Early")
    expect(exchange.locator(".wait")).to_contain_text("not ready yet")
    service.script(pieces=["Now."])
    finished(exchange)
    expect(exchange.locator(".answer")).to_have_text("Now.")
    expect(page.locator("#state")).to_have_attribute("data-status", "ready")
    expect(page.locator("#text-prompt")).to_have_value("Early")


def test_a_queue_shows_the_position(service, open_page):
    """The queue position is shown, announced once, updated, and the request can be stopped."""
    service.script(waiting=3)
    page = open_page(service.url)
    expect(page.locator("[data-notice=busy]").first).to_have_text(
        "Avibe is busy: 3 waiting. A new question waits about 4 s."
    )
    exchange = ask_text(page)
    wait = exchange.locator("[data-wait]")
    expect(wait).to_have_text("The service is at capacity. Requests ahead of yours: 3. Estimated wait: 4 s.")
    service.script(waiting=1)
    expect(wait).to_have_text("The service is at capacity. Requests ahead of yours: 1. Estimated wait: 2 s.")
    service.script(waiting=0)
    expect(wait).to_have_text("The service is at capacity. Your question is next.")
    expect(page.locator("#spoken p")).to_have_count(1)
    expect(page.locator("[data-notice=busy]")).to_have_count(0)
    page.click("form[data-kind=text] [data-do=stop]")
    expect(exchange.locator(".note")).to_contain_text("Stopped")


def test_an_overloaded_service_is_retried_automatically(service, open_page):
    """Overloaded: the page counts down and sends the question again."""
    service.script(refuse=True)
    page = open_page(service.url)
    exchange = ask_text(page)
    expect(exchange.locator("[data-wait]")).to_contain_text(
        "The service is busy. Please try again later. Your question"
    )
    expect(exchange.locator(".wait")).to_contain_text("sent again in")
    service.script(pieces=["At last."])
    finished(exchange)
    expect(exchange.locator(".answer")).to_have_text("At last.")


@pytest.mark.parametrize(
    ("locale", "said", "next_step"),
    [
        ("en-US", "The model failed on this request.", "put it in other words"),
        ("ru-RU", "Модель не справилась с этим запросом.", "скажите другими словами"),
    ],
)
def test_a_failure_says_what_to_do_next(service, open_page, locale, said, next_step):
    """In the reader's language, with the request id, with and without JavaScript."""
    service.script(fail=True)
    for scripts in (True, False):
        page = open_page(service.url, locale=locale, java_script_enabled=scripts)
        page.fill("#text-prompt", "x")
        page.click("form[data-kind=text] [data-do=send]")
        failure = page.locator(f"{TEXT} .failure").first
        expect(failure).to_contain_text(said)
        expect(failure).to_contain_text(next_step)
        assert len(failure.locator("[data-failure=id]").inner_text().split(": ")[1]) == 36
        expect(page.locator("#text-prompt")).to_have_value("x")


def test_a_spent_limit_shows_when_it_resets(own_service, open_page):
    """A countdown to the second; the same sentence without JavaScript, and in the reader's language either way."""
    service = own_service(RATE_LIMIT_PER_MINUTE="1", RATE_LIMIT_PER_HOUR="0")
    page = open_page(service.url)
    finished(ask_text(page))
    exchange = ask_text(page, "Again")
    expect(exchange.locator(".failure")).to_contain_text("Rate limit exceeded: 1 requests per minute")
    expect(exchange.locator("[data-failure=when]")).to_contain_text("The limit resets at")
    expect(page.locator("#text-prompt")).to_have_value("Again")
    russian = ask_text(open_page(service.url, locale="ru-RU"), "Again")
    expect(russian.locator("[data-failure=message]")).to_have_text("Превышен лимит запросов в минуту: 1")
    plain = open_page(service.url, java_script_enabled=False, locale="ru-RU")
    plain.fill("#text-prompt", "x")
    plain.click("form[data-kind=text] [data-do=send]")
    expect(plain.locator(f"{TEXT} .failure")).to_contain_text("Превышен лимит запросов в минуту: 1")
    expect(plain.locator("[data-failure=when]").first).to_contain_text("Попробуйте ещё раз через")
    expect(plain.locator("#text-prompt")).to_have_value("x")


def test_a_spent_budget_renews_by_the_clock_of_the_reader(own_service, open_page):
    """In words and in the reader's time zone, not as programs read it."""
    service = own_service(DEFAULT_TOKENS_PER_DAY="1", **UNLIMITED)
    page = open_page(service.url, locale="ru-RU", timezone_id="Europe/Moscow")
    finished(ask_text(page))
    message = ask_text(page, "Again").locator("[data-failure=message]")
    expect(message).to_have_text(
        re.compile(r"^Исчерпан бюджет токенов в день: 1\. Он обновится \d+ \S+ \d{4}\sг\. в 03:00\.$")
    )


def test_a_server_that_is_killed_and_comes_back_answers_what_was_asked(own_service, open_page):
    """Before there is anything of an answer, the page says so, keeps the question, and sends it again by itself."""
    service = own_service(**UNLIMITED)
    service.script(pieces=[], hold=True)
    page = open_page(service.url)
    exchange = ask_text(page, "Keep this")
    expect(exchange.locator(".wait")).to_be_visible()
    until(lambda: stored_stream(page))
    signalled(service, signal.SIGKILL)
    expect(exchange.locator(".wait")).to_contain_text("The connection is lost")
    expect(page.locator("#away")).to_be_visible()
    own_service(PORT=str(service.process.port), **UNLIMITED).script(pieces=["Whole."])
    finished(exchange)
    expect(exchange.locator(".answer")).to_have_text("Whole.")
    expect(page.locator("#away")).to_be_hidden()
    expect(page.locator("#text-prompt")).to_have_value("Keep this")


def test_a_demo_and_a_missing_gpu_are_shown(own_service, open_page):
    """Demo models and a missing GPU are named."""
    service = own_service(PAGE_DEMO="1", **UNLIMITED)
    page = open_page(service.url, locale="ru-RU")
    expect(page.locator("[data-notice=demo]")).to_contain_text("avibe-demo, avision-demo")
    expect(page.locator("[data-notice=no-gpu]")).to_contain_text("нет видеокарты")
