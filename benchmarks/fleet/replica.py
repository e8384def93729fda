"""One copy of the service: what it admits, which requests run, and how long their steps take.

The rules are those of engine/schedule: at most `slots` run and `waiting` wait beside them, more are refused; who waits
longer than `queue_timeout` fails; a step decodes one token for each running request and spends the rest of its budget
on prompts; a request starts if the cache has room for its prompt and one block more for each that runs; if the cache
runs out, the one that started last gives its blocks up. A step takes `step` seconds, `row` more for each request that
it decodes and `token` more for each token of a prompt. Steps that only decode are simulated together, up to the next
that changes anything.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.fleet.traffic import Turn
from engine.schedule.block_pool import BLOCK


@dataclass(frozen=True, slots=True)
class Machine:
    """What a copy can do. step, row, token, hop, queue_timeout, start: seconds; cache, budget: tokens.

    hop: between client and copy, both ways, with what HTTP costs; start: until a new copy is ready.
    """

    step: float
    row: float
    token: float
    slots: int
    cache: int
    budget: int = 2048
    waiting: int = 128
    hop: float = 0.0
    queue_timeout: float = 30.0
    start: float = 60.0


@dataclass(slots=True, eq=False)
class Job:
    """A request at a copy. due, first, ended: times in seconds; error: why it failed."""

    turn: Turn
    due: float
    done: Callable[[Job], None]
    first: float | None = None
    ended: float = 0.0
    error: str | None = None
    arrived: float = 0.0  # at the copy
    left: int = 0  # prompt tokens to compute
    tokens: int = 0  # generated
    last_tick: int = 0  # the decode step that ends it
    held: int = 0  # tokens of the cache when it started to decode
    since: int = 0  # the decode step after which it did
    running: bool = False


class Replica:
    """One copy. env: the simulation's; outstanding: requests that were sent to it and have not ended."""

    def __init__(self, env: Any, machine: Machine, number: int) -> None:
        self.env, self.machine, self.number = env, machine, number
        self.outstanding = 0
        self.alive = True
        self.busy = 0.0  # seconds in which a step was computed
        self.computed = self.reused = 0  # prompt tokens
        self._waiting: deque[Job] = deque()
        self._prompts: deque[Job] = deque()
        self._rows: list[tuple[int, int, Job]] = []  # a heap by the step that ends each; dropped ones are not running
        self._count = 0  # rows that run
        self._tick = self._order = 0
        self._held = 0  # tokens of the running requests
        self._kept: OrderedDict[int, int] = OrderedDict()  # prefixes that can be found, by conversation
        self._kept_tokens = 0
        self._plan = 0  # number of the current plan: timers of earlier ones are void
        self._open = False  # whether a step or run of steps is under way
        self._began = self._each = 0.0  # of a run of decode steps
        self._steps = 0  # of it, 0 while no run is under way

    # --- what the metrics of a copy say ---

    @property
    def waiting(self) -> int:
        """Requests that have no slot."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that have a slot."""
        return self._count + len(self._prompts)

    @property
    def cache_usage(self) -> float:
        """Share of the cache that running requests hold, as at the last change."""
        return self._held / self.machine.cache

    # --- requests ---

    def submit(self, job: Job) -> None:
        """Admit a request or refuse it."""
        job.arrived = self.env.now
        if self.running + len(self._waiting) >= self.machine.slots + self.machine.waiting:
            self._end(job, "refused")
            return
        self._waiting.append(job)
        if self._steps:
            self._cut_short()
        elif not self._open:
            self._next()

    def die(self) -> list[Job]:
        """End at once; return the requests that were lost."""
        self.alive = False
        self._plan += 1
        lost = [*self._waiting, *self._prompts, *(job for _, _, job in self._rows if job.running)]
        for job in lost:
            self._end(job, "lost")
        self._waiting.clear()
        self._prompts.clear()
        self._rows.clear()
        self._count = 0
        return lost

    # --- steps ---

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` in so many seconds, unless another plan is made before."""
        self._plan += 1
        plan = self._plan
        self._open = True

        def fire(_: object) -> None:
            if plan == self._plan:
                self._open = False
                then()

        self.env.timeout(seconds).callbacks.append(fire)

    def _next(self) -> None:
        """Plan the next step or run of steps."""
        self._drop_overdue()
        self._start_waiting()
        if self._prompts:
            self._plan_chunk()
        elif self._count:
            self._plan_decoding()

    def _plan_chunk(self) -> None:
        budget = max(1, self.machine.budget - self._count)
        taken: list[tuple[Job, int]] = []
        for job in self._prompts:
            if budget <= 0:
                break
            count = min(job.left, budget)
            taken.append((job, count))
            budget -= count
        tokens = sum(count for _, count in taken)
        seconds = self.machine.step + self.machine.row * self._count + self.machine.token * tokens
        self.busy += seconds
        self._after(seconds, lambda: self._end_chunk(taken))

    def _end_chunk(self, taken: list[tuple[Job, int]]) -> None:
        self._advance(1)
        for job, count in taken:
            job.left -= count
            self._held += count
            self.computed += count
            if not job.left:
                self._prompts.remove(job)
                self._begin_row(job)
        self._next()

    def _begin_row(self, job: Job) -> None:
        job.tokens += 1
        if job.first is None:
            job.first = self.env.now + self.machine.hop
        self._order += 1
        job.held, job.since = job.turn.prompt + job.tokens, self._tick
        job.last_tick = self._tick + job.turn.answer - job.tokens
        job.running = True
        self._count += 1
        self._held += 1
        heapq.heappush(self._rows, (job.last_tick, self._order, job))
        self._end_rows()

    def _plan_decoding(self) -> None:
        self._each = self.machine.step + self.machine.row * self._count
        fits = max(1, (self.machine.cache - self._held) // self._count)
        self._steps = max(1, min(self._rows[0][0] - self._tick, fits))
        self._began = self.env.now
        self._after(self._each * self._steps, self._end_decoding)

    def _cut_short(self) -> None:
        """Let a run of decode steps end with the one that is under way."""
        done = int((self.env.now - self._began) / self._each)
        self._steps = min(self._steps, done + 1)
        end = self._began + self._each * self._steps
        self._after(max(0.0, end - self.env.now), self._end_decoding)

    def _end_decoding(self) -> None:
        steps, self._steps = self._steps, 0
        self.busy += self._each * steps
        self._advance(steps)
        self._next()

    def _advance(self, steps: int) -> None:
        """Count decode steps; end what has ended with them, and preempt while the cache is too small."""
        self._tick += steps
        self._held += steps * self._count
        self._end_rows()
        while self._held > self.machine.cache and self._count > 1:
            self._preempt()

    def _end_rows(self) -> None:
        while self._rows and (self._rows[0][0] <= self._tick or not self._rows[0][2].running):
            _, _, job = heapq.heappop(self._rows)
            if job.running:
                self._leave(job)
                self._keep(job.turn)
                self._end(job, None)

    def _leave(self, job: Job) -> None:
        job.running = False
        self._count -= 1
        self._held -= job.held + self._tick - job.since

    def _preempt(self) -> None:
        """Send the request that started last back to the queue, with what it has generated as a part of its prompt."""
        _, _, job = max((row for row in self._rows if row[2].running), key=lambda row: row[1])
        self._leave(job)
        job.tokens += self._tick - job.since
        self._waiting.appendleft(job)
        self._rows = [row for row in self._rows if row[2].running]
        heapq.heapify(self._rows)

    # --- the queue and the cache ---

    def _drop_overdue(self) -> None:
        limit = self.env.now - self.machine.queue_timeout
        while self._waiting and self._waiting[0].arrived < limit and not self._waiting[0].tokens:
            self._end(self._waiting.popleft(), "deadline")

    def _start_waiting(self) -> None:
        while self._waiting and self.running < self.machine.slots:
            job = self._waiting[0]
            tokens = job.turn.prompt + job.tokens
            promised = sum(waiting.left for waiting in self._prompts)
            if self.running and self._held + promised + tokens + BLOCK * self.running > self.machine.cache:
                break
            self._waiting.popleft()
            found = min(self._take(job.turn.conversation), job.turn.shared)
            self.reused += found
            self._held += found
            job.left = tokens - found
            self._prompts.append(job)
            self._evict()

    def _take(self, conversation: int) -> int:
        """Take the prefix of a conversation out of what is kept; return its tokens."""
        tokens = self._kept.pop(conversation, 0)
        self._kept_tokens -= tokens
        return tokens

    def _keep(self, turn: Turn) -> None:
        """Keep what was computed of a request while its memory is not needed; the oldest goes first."""
        self._take(turn.conversation)
        self._kept[turn.conversation] = turn.prompt + turn.answer
        self._kept_tokens += turn.prompt + turn.answer
        self._evict()

    def _evict(self) -> None:
        while self._kept and self._kept_tokens + self._held > self.machine.cache:
            self._kept_tokens -= self._kept.popitem(last=False)[1]

    def _end(self, job: Job, error: str | None) -> None:
        job.error, job.ended = error, self.env.now + self.machine.hop
        self.outstanding -= 1
        job.done(job)
