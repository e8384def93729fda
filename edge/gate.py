"""What is decided of a request before a thread serves it: from its head, before its body is read, and once it is whole.

Under a flood, a refusal may cost the engine next to nothing. So the requests that would certainly be refused, because
no model can take them or the client's limit is spent, are refused here in the polling thread. What is not certain
from the head alone is left to the hooks, which check in the same order: failover, kind of body, rate limit, capacity.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from flask import Request

from config import Settings
from edge import caller, failover, in_service
from edge.authentication import Authenticator, credential
from edge.batch_capacity import BatchCapacity
from edge.rate_limit import OverBudget, Quota, RateLimiter
from edge.ready_made import ReadyMade, Refused, Sentences
from edge.request_head import RequestHead
from edge.route_table import ROUTES, Budget, Need, Row
from engine.backend import Backend
from engine.errors import BUSY, NotReady, Overloaded, RetryLater, ServiceError
from keys.account import of_address
from models import ModelNames, ModelSet
from telemetry.access_lines import SparseLines
from telemetry.metrics import Metrics
from usage.budgets import Budgets

log = logging.getLogger("avito_ai.access")

BATCH, BATCH_MODEL = "/api/v1/text/batch", "avibe"
CODINGS = ("gzip", "x-gzip", "deflate")  # of bodies that are read

NAMING_BYTES = 256 * 1024  # of a body in which the model's name is looked for
_NAME_FIELD = re.compile(rb'"model"\s*:\s*"([^"\\]{1,128})"')
# The routes whose refusals are JSON; the pages' own are rendered by the framework.
FOR_CLIENTS = {
    name.removeprefix("POST "): row
    for name, row in ROUTES.items()
    if row.need is Need.CLIENT and name.startswith(("POST /api/", "POST /v1/"))
}
GATED = {path: row for path, row in FOR_CLIENTS.items() if row.budget is Budget.GENERATION}


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a request.

    client: whose budget of bytes the body counts in; key_name: of its key or token, "" without one; refusal: the whole
    response to a request that is not to be read on, None for one that is; keeps_alive: whether the connection may serve
    another request behind that. again: judges the request once more, given the model that its body names, as `named`
    reads it; None where nothing is left to be judged.
    """

    client: str
    refusal: bytes | None = None
    keeps_alive: bool = False
    again: Callable[[str], bytes | None] | None = None
    key_name: str = ""


class Gate:
    """Judges requests; called by the polling thread only, and never blocks.

    sentences: translate refusals; access_lines: of the refusals of the whole service.
    """

    def __init__(
        self,
        settings: Settings,
        models: ModelSet,
        limiter: RateLimiter,
        metrics: Metrics,
        sentences: Sentences,
        authenticator: Authenticator,
        budgets: Budgets,
        access_lines: SparseLines,
        batch_capacity: BatchCapacity,
    ) -> None:
        self._authenticator, self._budgets, self._batch_capacity = authenticator, budgets, batch_capacity
        self._settings, self._models, self._limiter = settings, models, limiter
        self._names = ModelNames.of(settings)
        self._trusted_proxies = settings.server.trusted_proxies
        self._ready_made = ReadyMade(settings, metrics, sentences, access_lines)
        self._line_is_full: Callable[[str], bool] = lambda client: False

    def ask_of_lines(self, full: Callable[[str], bool]) -> None:
        """Refuse what generates from now on while so many requests of its client wait that `full` says so."""
        self._line_is_full = full

    @property
    def behind_proxy(self) -> bool:
        """True where a connection's peer is a proxy, and not the client."""
        return self._trusted_proxies > 0

    def tell_unlogged(self) -> None:
        """Log how many refusals of the last second had no line of their own, whoever made them."""
        self._ready_made.tell_unlogged()

    def judge(self, head: bytes, peer: str, plain: RequestHead | None) -> Decision:
        """Return the decision on a request.

        head: its request line and fields; plain: the same as `read_head` returns it; peer: its connection's address.
        """
        try:
            return self._decision(head, peer, plain)
        except Exception:  # in the polling thread, where it would end everybody's requests
            log.exception("A request could not be judged from its head; the hooks decide.")
            return Decision("unknown")

    def _decision(self, head: bytes, peer: str, read: RequestHead | None) -> Decision:
        forwarded = _forwarded(head, read) if self.behind_proxy else []
        address = caller.address_of(forwarded, peer, self._trusted_proxies)
        client = caller.budget_key(address)
        row = None if read is None else FOR_CLIENTS.get(read.path)
        if read is None or row is None:
            return Decision(client)
        case = Refused(read, row, address, of_address(client))
        offered = _credential(read)
        if self._authenticator.demanded and not offered and read.has("cookie"):
            return Decision(client)  # of a browser that may have signed in
        try:
            account = self._authenticator.account_for(offered, client)
        except ServiceError as error:
            quota = error.quota if isinstance(error, OverBudget) else None
            return Decision(client, self._refuse(case, error, quota), read.keeps_alive)
        if account is not None:
            case, client = Refused(read, row, address, account), account.id
        key_name = case.account.name
        if read.path not in GATED or (row.model is not None and not case.account.may_use(row.model)):
            return Decision(client, key_name=key_name)
        if failover.can_take(read.has(failover.HEADER.lower()), self._settings) and not self._models.ready:
            return Decision(client, self._refuse(case, failover.NOT_READY), read.keeps_alive)
        if not _is_read(read, row):
            return Decision(client, key_name=key_name)
        names = read.path.startswith("/v1/") and 0 < int(read.get("content-length", "0")) <= NAMING_BYTES
        refusal = self._judge(case, [] if names else self._able_to_answer(case, row))
        again = partial(self._judge_named, case) if names else None
        return Decision(client, refusal, read.keeps_alive, again, key_name)

    def model_of(self, rule: str, row: Row, client: str, asked: str) -> str | None:
        """Return the model that a client's request is for, None where it generates nothing or names none that exists.

        rule: of its route; asked: the model that its body names, "" where that was not read.
        """
        if row.budget is not Budget.GENERATION:
            return None
        wanted = BATCH_MODEL if rule == BATCH else row.model or asked
        found = self._names.find(wanted, client, self._models)
        return row.model if found is None else found[0]

    def _able_to_answer(self, case: Refused, row: Row) -> list[Backend]:
        """Return the models of which one would answer, as far as the head tells; none for a batch, whose texts wait."""
        if row.model is None:
            return [backend for _, backend in self._models] if case.head.path.startswith("/v1/") else []
        answers = self._version(case, row.model)
        return [] if answers is None else [answers]

    def _judge_named(self, case: Refused, asked: str) -> bytes | None:
        """Judge a request of /v1 by the one model that its body names."""
        try:
            return self._by_name(case, asked)
        except Exception:  # as above
            log.exception("A request could not be judged from its body; the hooks decide.")
            return None

    def _by_name(self, case: Refused, asked: str) -> bytes | None:
        backend = self._version(case, asked)
        return None if backend is None else self._judge(case, [backend])

    def _version(self, case: Refused, asked: str) -> Backend | None:
        """Return what would answer, None for an unknown name and for what the caller may not use."""
        found = self._names.find(asked, case.account.id, self._models, case.account.may_use)
        if found is None:
            return None
        limited = case.account.models is not None
        may = not limited or case.account.may_use(*self._names.names_of(found[0], found[1].info))
        return found[1] if may else None

    def _judge(self, case: Refused, models: list[Backend]) -> bytes | None:
        """Refuse if the client's budget or limit is spent, or if the model would; where it may be any, if all would."""
        account = case.account
        if (over := self._budgets.refusal(account)) is not None:
            return self._refuse(case, over)
        no_batch = self._refusal_of_batch(case)
        error = self._refusal_of_line(account.id) or no_batch or _refusal_of_all(models, account.id)
        try:
            # A request that is refused is charged as one answer, like one whose body is refused; by a model that is
            # not ready, as nothing.
            quota = self._limiter.spend_local(
                Budget.GENERATION.value, account.id, only_look=not isinstance(error, Overloaded), limits=account.limits
            )
        except OverBudget as spent:
            return self._refuse(case, spent, spent.quota)
        if error is None:
            return None
        if error is no_batch:
            self._batch_capacity.count_refused()
        return self._refuse(case, error, quota, models[0] if len(models) == 1 else None)

    def _refusal_of_line(self, client: str) -> RetryLater | None:
        return Overloaded(BUSY, math.ceil(in_service.PATIENT)) if self._line_is_full(client) else None

    def _refusal_of_batch(self, case: Refused) -> RetryLater | None:
        if case.head.path != BATCH or (refusal := self._batch_capacity.would_refuse(case.account.id)) is None:
            return None
        model = self._version(case, BATCH_MODEL)
        return None if model is None or isinstance(model.would_refuse(case.account.id), NotReady) else refusal

    def _refuse(
        self, case: Refused, error: ServiceError, quota: Quota | None = None, backend: Backend | None = None
    ) -> bytes:
        return self._ready_made.refusal(case, error, quota, None if backend is None else backend.info)


def _refusal_of_all(models: list[Backend], client: str) -> RetryLater | None:
    """Return the refusal of the model that is the first to have room again, None if one would admit the client."""
    first: RetryLater | None = None
    for model in models:
        refusal = model.would_refuse(client)
        if refusal is None:
            return None
        first = refusal if first is None or refusal.retry_after < first.retry_after else first
    return first


def _credential(head: RequestHead) -> str:
    """Return the key or token of a request."""
    return credential(head.get("authorization"), head.get("x-api-key"))


def named(body: bytes) -> str:
    """Return the model's name in a whole body of at most NAMING_BYTES, "" where it is not plain."""
    names = _NAME_FIELD.findall(body) if body.count(b'"model"') == 1 else []
    return names[0].decode("latin-1") if names else ""


def _is_read(head: RequestHead, row: Row) -> bool:
    """Return whether the route reads such a body; otherwise the hooks refuse it."""
    limit = row.bodies.get(head.mimetype)
    known = head.get("content-encoding", "identity").lower() in ("identity", *CODINGS)
    return limit is not None and known and int(head.get("content-length", "0")) <= limit


def _forwarded(head: bytes, read: RequestHead | None) -> list[str]:
    """Return the values of X-Forwarded-For, in order."""
    if read is not None:
        return read.fields.get("x-forwarded-for", [])
    found = []
    for line in head.split(b"\r\n")[1:]:
        field, colon, value = line.partition(b":")
        if colon and field.strip().lower() == b"x-forwarded-for":
            found.append(value.strip().decode("latin-1"))
    return found


def arrival(request: Request) -> float:
    """Return when the whole request had arrived, before it waited for a thread, in seconds on the monotonic clock."""
    return float(getattr(request.environ.get("gunicorn.socket"), "arrived", 0.0)) or time.monotonic()


def body_refused(request: Request) -> bool:
    """True where there was no room in the budget for the request's body, which has not been read."""
    return bool(getattr(request.environ.get("gunicorn.socket"), "body_refused", False))


def grow_body(request: Request, size: int) -> bool:
    """Take room for `size` more bytes of the request's body; False where there is none."""
    return growing_body(request)(size)


def growing_body(request: Request) -> Callable[[int], bool]:
    """Return what takes room for more bytes of the request's body, without a reference to the request."""
    grow: Callable[[int], bool] | None = getattr(request.environ.get("gunicorn.socket"), "grow_body", None)
    return grow if grow is not None else lambda size: True


def release_body(request: Request) -> None:
    """Give the bytes of the request's body back to the budget: nothing of it is kept any longer."""
    release = getattr(request.environ.get("gunicorn.socket"), "release_body", None)
    if release is not None:
        release()
