"""What the refusals of accounts say: each sentence with its key for `locales/`."""

from __future__ import annotations

from engine.errors import Message
from keys.written import in_words
from usage.prices import as_money


def spent(limit: str, amount: int, currency: str, renews: int) -> Message:
    """Return what is said when a budget is spent. amount: tokens, or millionths; renews: seconds since the epoch.

    The service's own budgets are not told to its callers.
    """
    when, money = in_words(renews), as_money(amount)
    if limit.startswith("service_"):
        return Message("service_budget_spent", "The service's budget is spent. It renews at {when}.", when=when)
    if limit == "tokens_per_day":
        return Message(
            "day_of_tokens_spent", "Budget exceeded: {n} tokens per day. It renews at {when}.", n=amount, when=when
        )
    if limit == "tokens_per_month":
        return Message(
            "month_of_tokens_spent", "Budget exceeded: {n} tokens per month. It renews at {when}.", n=amount, when=when
        )
    if limit == "money_per_day":
        return Message(
            "day_of_money_spent",
            "Budget exceeded: {amount} {currency} per day. It renews at {when}.",
            amount=money,
            currency=currency,
            when=when,
        )
    return Message(
        "month_of_money_spent",
        "Budget exceeded: {amount} {currency} per month. It renews at {when}.",
        amount=money,
        currency=currency,
        when=when,
    )


def concurrent(most: int) -> Message:
    """Return what is said while an account has as many requests in flight as it may."""
    return Message("concurrent_reached", "Rate limit exceeded: {n} concurrent requests", n=most)


def minute_of_tokens(most: int) -> Message:
    """Return what is said when an account has used the tokens of a minute."""
    return Message("minute_of_tokens_spent", "Rate limit exceeded: {n} tokens per minute", n=most)


def in_flight() -> Message:
    """Return what is said while requests in flight may use what is left."""
    return Message(
        "budget_in_flight", "Requests in flight may use what is left of the budget; try again when one has ended."
    )
