"""The table of routes: who may use each, which budget it spends and which bodies it reads.

The application does not start if a route has no row or a row no route.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from flask import Flask, Request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter, RequestRedirect, Rule

from telemetry.protocol import Protocol

MIB = 1024 * 1024
JSON, MULTIPART, FORM = "application/json", "multipart/form-data", "application/x-www-form-urlencoded"
FORM_OF_TEXT = {FORM: MIB, MULTIPART: MIB}
FORM_WITH_IMAGE = {MULTIPART: 17 * MIB}


class Need(Enum):
    """Who may use a route. PROBE is open as well, and logged only at DEBUG.

    CLIENT: who holds a client key or a token where AUTH asks for one, and else everybody.
    """

    OPEN = "open"
    CLIENT = "client"
    PROBE = "probe"
    LOCAL_OR_ADMIN = "local or admin"
    OPERATOR = "local, admin or signed in"


class Budget(Enum):
    """Which of a client's budgets a request is charged to."""

    GENERATION = "generation"
    HEALTH = "health"
    COUNTING = "counting"  # what reads a prompt or a stored response and generates nothing

    @property
    def times(self) -> int:
        """How many times the numbers of the settings it is."""
        return 10 if self is Budget.COUNTING else 1


@dataclass(frozen=True, slots=True)
class Row:
    """The rules of one route.

    own_page: the route changes what a browser keeps, and refuses a browser that calls it for another site's page.
    form_token: it acts on what a browser sends by itself, and wants the token of a form of ours (edge/csrf.py); so does
    every other route from who has signed in on the page.
    bodies: the accepted content types with their limits in bytes; empty for a route that reads no body. cost_in_body:
    the body tells how many answers are requested, which are charged each. model: the one that answers, and whose
    figures a failed request counts in, unless the body names it. protocol: of a route that generates.
    """

    need: Need = Need.OPEN
    budget: Budget | None = None
    bodies: Mapping[str, int] = field(default_factory=dict)
    cost_in_body: bool = False
    model: str | None = None
    protocol: Protocol | None = None
    own_page: bool = False
    form_token: bool = False

    @property
    def charges_itself(self) -> bool:
        """True for a route that charges for its answers: its body tells how many are requested, or of which model."""
        return self.budget is Budget.GENERATION and (self.cost_in_body or self.model is None)


# Bodies of /v1 name their model; those of SEVERAL_ANSWERS also how many answers they ask for.
ONE_ANSWER = Row(need=Need.CLIENT, budget=Budget.GENERATION, bodies={JSON: 64 * MIB})
SEVERAL_ANSWERS = replace(ONE_ANSWER, cost_in_body=True)
COUNTED = Row(need=Need.CLIENT, budget=Budget.COUNTING, bodies={JSON: 64 * MIB})
STORED = Row(need=Need.CLIENT, budget=Budget.COUNTING)
FORMS = Row(need=Need.CLIENT, budget=Budget.GENERATION, protocol=Protocol.FORM)
OPERATORS_ACT = Row(need=Need.OPERATOR, bodies=FORM_OF_TEXT, own_page=True, form_token=True)
SIGNING = Row(bodies=FORM_OF_TEXT, own_page=True, form_token=True)
API = Row(need=Need.CLIENT, budget=Budget.GENERATION, protocol=Protocol.API)

ROUTES: Mapping[str, Row] = {
    "GET /": Row(),
    "GET /state": Row(),
    "GET /language": Row(),
    "POST /language": Row(  # with the image that the page keeps
        budget=Budget.COUNTING, bodies={FORM: 5 * MIB, MULTIPART: MIB}, own_page=True
    ),
    "GET /static/<path:filename>": Row(),
    "GET /favicon.ico": Row(),
    "GET /manifest.webmanifest": Row(),
    "GET /status": Row(need=Need.OPERATOR),
    "GET /status/figures": Row(need=Need.OPERATOR),
    "GET /status/samples": Row(need=Need.OPERATOR),
    "GET /status/keys": Row(need=Need.OPERATOR),
    "GET /status/keys/new": Row(need=Need.OPERATOR),
    "POST /status/keys": OPERATORS_ACT,
    "GET /status/keys/<key_id>": Row(need=Need.OPERATOR),
    "POST /status/keys/<key_id>": OPERATORS_ACT,
    "POST /status/keys/<key_id>/disable": OPERATORS_ACT,
    "POST /status/keys/<key_id>/enable": OPERATORS_ACT,
    "POST /status/keys/<key_id>/rotate": OPERATORS_ACT,
    "POST /status/keys/<key_id>/delete": OPERATORS_ACT,
    "GET /status/usage": Row(need=Need.OPERATOR),
    "GET /status/usage.csv": Row(need=Need.OPERATOR),
    "GET /status/audit": Row(need=Need.OPERATOR),
    "POST /status/sign-in": SIGNING,
    "POST /status/sign-out": SIGNING,
    "GET /sign-in": Row(),
    "POST /sign-in": replace(SIGNING, bodies={FORM: MIB, MULTIPART: 5 * MIB}),
    "POST /sign-out": SIGNING,
    "GET /avibe": Row(),
    "POST /avibe": replace(FORMS, bodies=FORM_OF_TEXT, model="avibe"),
    "GET /avision": Row(),
    "POST /avision": replace(FORMS, bodies=FORM_WITH_IMAGE, model="avision"),
    "POST /api/v1/text/generate": replace(API, bodies={JSON: MIB}, model="avibe"),
    "POST /api/v1/text/batch": replace(API, bodies={JSON: 4 * MIB}, cost_in_body=True),
    "POST /api/v1/image/analyze": replace(API, bodies={**FORM_WITH_IMAGE, JSON: 24 * MIB}, model="avision"),
    "GET /api/v1/streams/<stream_id>": STORED,
    "DELETE /api/v1/streams/<stream_id>": STORED,
    "GET /api/v1/usage": Row(need=Need.CLIENT, budget=Budget.COUNTING),
    "POST /api/v1/feedback": Row(need=Need.CLIENT, budget=Budget.COUNTING, bodies={JSON: MIB}),
    "GET /v1/models": Row(need=Need.CLIENT),
    "GET /v1/models/<path:model_id>": Row(need=Need.CLIENT),
    "POST /v1/chat/completions": replace(SEVERAL_ANSWERS, protocol=Protocol.OPENAI_CHAT),
    "POST /v1/completions": replace(SEVERAL_ANSWERS, protocol=Protocol.OPENAI_COMPLETIONS),
    "POST /v1/tokenize": COUNTED,
    "POST /v1/detokenize": COUNTED,
    "POST /v1/responses": replace(ONE_ANSWER, protocol=Protocol.OPENAI_RESPONSES),
    "POST /v1/responses/input_tokens": COUNTED,
    "GET /v1/responses/<response_id>": STORED,
    "DELETE /v1/responses/<response_id>": STORED,
    "GET /v1/responses/<response_id>/input_items": STORED,
    "POST /v1/messages": replace(ONE_ANSWER, protocol=Protocol.ANTHROPIC_MESSAGES),
    "POST /v1/messages/count_tokens": COUNTED,
    "GET /api/docs": Row(),
    "GET /api/openapi.json": Row(),
    "GET /api/health": Row(budget=Budget.HEALTH),
    "GET /api/health/ready": Row(need=Need.PROBE),
    "GET /api/health/live": Row(need=Need.PROBE),
    # The names of an LLM gateway's guide.
    "GET /health": Row(budget=Budget.HEALTH),
    "GET /health/ready": Row(need=Need.PROBE),
    "GET /ready": Row(need=Need.PROBE),
    "GET /health/live": Row(need=Need.PROBE),
    "GET /health/system": Row(),
    "GET /api/health/upstreams": Row(need=Need.LOCAL_OR_ADMIN),
    "GET /health/circuit-breakers": Row(need=Need.LOCAL_OR_ADMIN),
    "GET /health/detailed": Row(need=Need.LOCAL_OR_ADMIN),
    "GET /api/metrics": Row(),
    "POST /api/metrics/reset": Row(need=Need.LOCAL_OR_ADMIN),
    "GET /api/admin/usage": Row(need=Need.LOCAL_OR_ADMIN),
    "GET /api/admin/audit": Row(need=Need.LOCAL_OR_ADMIN),
    "GET /metrics": Row(),
}


class RouteTableError(Exception):
    """The table and the routes differ; a bug, found at the start."""


def names_of(rule: Rule) -> set[str]:
    """Return the rule's names in the table, one for each method apart from HEAD and OPTIONS."""
    return {f"{method} {rule.rule}" for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}


def check_routes(app: Flask, table: Mapping[str, Row] = ROUTES) -> None:
    """Raise RouteTableError unless every route has a row and every row a route."""
    routes = set().union(*(names_of(rule) for rule in app.url_map.iter_rules()))
    if routes != set(table):
        without_row, without_route = sorted(routes - set(table)), sorted(set(table) - routes)
        raise RouteTableError(f"Routes without a row: {without_row}; rows without a route: {without_route}.")


def row_of(request: Request, table: Mapping[str, Row] = ROUTES) -> Row | None:
    """Return the row of the matched route; None if no route matched and for OPTIONS, which has no rules."""
    return None if request.url_rule is None else row_of_rule(request.method, request.url_rule.rule, table)


def row_of_rule(method: str, rule: str, table: Mapping[str, Row] = ROUTES) -> Row | None:
    """Return the same of the rule that matched a request with this method."""
    if method == "OPTIONS":
        return None
    return table[f"{'GET' if method == 'HEAD' else method} {rule}"]


def rule_at(urls: MapAdapter, method: str, path: str) -> str | None:
    """Return the rule that a request outside of the framework would match, None for none."""
    try:
        return str(urls.match(path, method, return_rule=True)[0].rule)
    except (HTTPException, RequestRedirect):
        return None
