"""Tokens a minute and concurrent requests of an account over all copies of the service, in Redis.

Of each account, Redis has the requests in flight, each with what it may still use, and the tokens of the last minute by
second. A copy asks once for each admission, in one step that no other copy can come between, and tells what changes.
Requests of a copy that is gone end by their time. While Redis is away, each copy goes by what it knows itself, and once
it is back tells what has changed meanwhile.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from functools import cached_property
from typing import Any

from edge.shared_windows import SharedWindows
from engine.errors import RetryLater
from keys.account import Limits
from usage import sentences
from usage.errors import HeldBack, LimitReached
from usage.limits import IN_FLIGHT_SECONDS
from usage.shares import SharedRequest

MOST_UNTOLD = 20_000  # requests whose newest state is kept while Redis is away; of more, the newest
SPARE_SECONDS = 60  # that a request may take beyond its time-out before other copies believe it gone

# The clock of Redis, which is the same for all copies; requests whose time is over are dropped.
CURRENT = """
local now = tonumber(redis.call('TIME')[1])
local function in_flight(key, own)
    local running, held, unsized, found = 0, 0, 0, redis.call('HGETALL', key)
    for at = 1, #found, 2 do
        local ends, tokens, runs, waits = string.match(found[at + 1], '^(%d+) (%d+) (%d) (%d)$')
        if tonumber(ends) < now then
            redis.call('HDEL', key, found[at])
        elseif found[at] ~= own then
            running, held, unsized = running + runs, held + tokens, unsized + waits
        end
    end
    return running, held, unsized
end
local function put(key, own, lease, tokens, runs, waits)
    redis.call('HSET', key, own, string.format('%d %s %s %s', now + lease, tokens, runs, waits))
    redis.call('EXPIRE', key, lease + 1)
end
"""
# KEYS: requests in flight, tokens by second. ARGV: request, lease, tokens, whether its size is unknown, tokens that it
# held before, both limits (-1 for none). Returns what is in the way and for how many seconds.
ADMIT = (
    CURRENT
    + """
local request, lease, most, minute = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[6]), tonumber(ARGV[7])
local running, held, unsized = in_flight(KEYS[1], request)
if most >= 0 and running >= most then return {'concurrent_requests', 0} end
if minute >= 0 then
    local seconds, used, spent = {}, {}, 0
    local found = redis.call('HGETALL', KEYS[2])
    for at = 1, #found, 2 do
        local second = tonumber(found[at])
        if second < now - 60 then
            redis.call('HDEL', KEYS[2], found[at])
        else
            table.insert(seconds, second)
            used[second], spent = tonumber(found[at + 1]), spent + found[at + 1]
        end
    end
    if spent >= minute then
        table.sort(seconds)
        local left = spent
        for _, second in ipairs(seconds) do
            left = left - used[second]
            if left < minute then return {'tokens_per_minute', second + 61 - now} end
        end
        return {'tokens_per_minute', 60}
    end
    if spent + held + tonumber(ARGV[5]) >= minute then return {unsized > 0 and 'unsized' or 'held', 0} end
end
put(KEYS[1], request, lease, ARGV[3], 1, ARGV[4])
return {'', 0}
"""
)
# KEYS: requests in flight. ARGV: request, lease, tokens, whether it runs, whether its size is unknown.
TELL = (
    CURRENT
    + """
if ARGV[3] == '0' and ARGV[4] == '0' then
    redis.call('HDEL', KEYS[1], ARGV[1])
else
    put(KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5])
end
return 1
"""
)
# KEYS: tokens by second. ARGV: tokens.
COUNT = (
    CURRENT
    + """
redis.call('HINCRBY', KEYS[1], now, ARGV[1])
redis.call('EXPIRE', KEYS[1], 120)
"""
)


class SharedLimits:
    """What all copies have of the accounts with such limits. timeout: of a request, in seconds. Thread-safe."""

    def __init__(self, shared: SharedWindows, timeout: float) -> None:
        self._shared, self._lease = shared, int(timeout) + SPARE_SECONDS
        self._lock = threading.Lock()  # guards the field below
        self._untold: dict[str, tuple[str, SharedRequest]] = {}  # by request: its account, and its newest state
        self._late = threading.Lock()  # held while a state is told that another one of the request may overtake
        shared.on_return(self._tell_late)

    def admit(self, account: str, request: SharedRequest, before: int, limits: Limits) -> RetryLater | None:
        """Take a request in flight, or more of one; return what it is refused with.

        before: the tokens that it held back already. `HeldBack.unsized` where the sizes of others will soon be known.
        """
        most, minute = (-1 if one is None else one for one in (limits.concurrent_requests, limits.tokens_per_minute))
        with self._lock:
            self._untold.pop(request.id, None)
        size = (request.tokens, int(request.unsized), before)
        found = self._run("_admit", _keys(account), request.id, self._lease, *size, most, minute)
        if found is None:
            self._keep_untold(account, request)
        reason, seconds = ("", 0) if found is None else (found[0].decode(), int(found[1]))
        if reason == "concurrent_requests":
            return LimitReached(sentences.concurrent(most), IN_FLIGHT_SECONDS, reason)
        if reason == "tokens_per_minute":
            return LimitReached(sentences.minute_of_tokens(minute), seconds, reason)
        if reason:
            refusal = HeldBack(sentences.in_flight(), IN_FLIGHT_SECONDS, "tokens_per_minute")
            refusal.unsized = reason == "unsized"
            return refusal
        return None

    def tell(self, account: str, request: SharedRequest) -> None:
        """Tell how much a request holds back now, and whether it is in flight; of none it is forgotten.

        While Redis is away, the newest state of a request is kept, and told once it is back.
        """
        late = self._keep_untold(account, request)
        with self._late if late else nullcontext():
            self._tell_newest(request.id)

    def _keep_untold(self, account: str, request: SharedRequest) -> bool:
        """Keep the newest state of a request to be told; return whether an older one was kept."""
        with self._lock:
            late = self._untold.pop(request.id, None) is not None
            self._untold[request.id] = account, request
            if len(self._untold) > MOST_UNTOLD:
                del self._untold[next(iter(self._untold))]
        return late

    def _tell_late(self) -> None:
        """Tell what could not be told while Redis was away."""
        for request in list(self._untold):
            with self._late:
                if not self._tell_newest(request):
                    return

    def _tell_newest(self, request: str) -> bool:
        """Tell the newest state of a request, unless it is told; return False while Redis is away."""
        if (newest := self._untold.get(request)) is None:
            return True
        account, state = newest
        values = (state.tokens, int(state.running), int(state.unsized))
        if self._run("_tell", _keys(account)[:1], request, self._lease, *values) is None:
            return False
        with self._lock:
            if self._untold.get(request) is newest:
                del self._untold[request]
        return True

    def count(self, account: str, tokens: int) -> None:
        """Count the tokens of an answer that ends now."""
        self._run("_count", _keys(account)[1:], tokens)

    def _run(self, name: str, keys: list[str], *values: object) -> Any:
        """Run a script; None while Redis is away."""
        if self._shared.unavailable:
            return None
        try:
            return self._scripts[name](keys=keys, args=list(values), client=self._client)
        except Exception as error:  # whatever comes of a storage that is away, full, or no Redis at all
            self._shared.failed(error)
            return None

    @property
    def _client(self) -> Any:
        """The client of Redis, which may be another one after each call."""
        return self._shared.windows.storage.storage  # type: ignore[attr-defined] # of RedisStorage

    @cached_property
    def _scripts(self) -> dict[str, Any]:
        register = self._client.register_script
        return {"_admit": register(ADMIT), "_tell": register(TELL), "_count": register(COUNT)}


def _keys(account: str) -> list[str]:
    """Return the keys of an account, which a cluster keeps together."""
    return [f"avito_ai:{{{account}}}:{kind}" for kind in ("in_flight", "minute")]
