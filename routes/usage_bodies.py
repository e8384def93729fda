"""The queries and bodies of usage and of the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field

from edge.bodies import Body
from routes.validation import RequestModel

DATE = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="a date such as 2026-01-31")
BY = r"^(day|hour|account|model|user)(,(day|hour|account|model|user)){0,4}$"
OWN_BY = r"^(day|hour|model|user)(,(day|hour|model|user)){0,3}$"
MOST = 100_000


class Query(RequestModel):
    """A query. format: instead of the header `Accept`."""

    model_config = ConfigDict(populate_by_name=True)

    format: Annotated[str, Field(pattern="^(json|csv)$", description="json or csv")] | None = None

    @classmethod
    def values(cls, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the values in a query, whose numbers are texts."""
        numbers = ("limit", "offset", "before")
        return {
            name: int(text) if name in numbers and text.isascii() and text.isdigit() and len(text) < 18 else text
            for name, text in query.items()
        }


class OwnUsageQuery(Query):
    """What a client asks about itself. from, to: days of UTC, both included; without them, this month so far."""

    from_: Annotated[str, DATE] | None = Field(None, alias="from")
    to: Annotated[str, DATE] | None = None
    month: Annotated[str, Field(pattern=r"^\d{4}-\d{2}$", description="a month such as 2026-01")] | None = None
    by: Annotated[str, Field(pattern=OWN_BY, description="day, hour, model or user, or several with commas")] = "day"
    model: Annotated[str, Field(max_length=160)] | None = None
    limit: Annotated[int, Field(ge=1, le=MOST)] | None = None
    offset: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0


class UsageQuery(OwnUsageQuery):
    """What the operator asks about everybody."""

    by: Annotated[str, Field(pattern=BY, description="day, hour, account, model or user, or several with commas")] = (
        "day"
    )
    account: Annotated[str, Field(max_length=160)] | None = None


class AuditQuery(Query):
    """Which acts. before: those with a smaller number."""

    before: Annotated[int, Field(ge=0, lt=10**17)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class UsageFigures(Body):
    """Sums. failed: of the requests, those that ended with an error; seconds: in which answers were computed."""

    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    images: int
    seconds: float
    cost: Annotated[str, Field(description="In `currency`, to the millionth.")]


class UsageLine(UsageFigures):
    """Sums of what `by` names."""

    day: NotRequired[str]
    hour: NotRequired[str]
    account: NotRequired[str]
    name: NotRequired[Annotated[str, Field(description="Of the account, if it has one.")]]
    model: NotRequired[str]
    user: NotRequired[str]


class UsageReport(Body):
    """What was used from `begins` until before `ends`."""

    begins: str
    ends: str
    by: list[str]
    currency: str
    lines: list[UsageLine]
    next_offset: Annotated[int | None, Field(description="Where the next page begins; null on the last.")]
    total: Annotated[UsageFigures, Field(description="Of all lines, on whichever page.")]
    complete: Annotated[
        bool, Field(description="Whether all that this copy has answered is in it; false also beyond the days kept.")
    ]


class BudgetLeft(Body):
    """What is left of a budget of tokens or money."""

    limit: str
    amount: int | str
    used: int | str
    remaining: int | str
    renews_at: str


class OwnUsage(UsageReport):
    """What the caller has used."""

    account: str
    name: str
    budgets: list[BudgetLeft]


class AuditAct(Body):
    """An administrative act."""

    id: int
    at: str
    actor: str
    address: str
    action: str
    target: str
    details: dict[str, Any]


class AuditTrail(Body):
    """Acts, the newest first. before: for the next page, null on the last."""

    acts: list[AuditAct]
    before: int | None
