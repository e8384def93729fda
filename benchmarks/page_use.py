"""Simulate what a KV cache of blocks holds and what CUDA graphs of few sizes waste; no model, no device.

    python -m benchmarks.page_use [--requests 1000]

The engine's own scheduler and block pool serve random requests (prompts of 50 to 300 tokens, answers of 64 to 256) in a
closed loop; a step computes what they plan. First more clients than a cache holds: how many requests run at once, and
how often one is preempted. Then a large cache: how many tokens a step has, and how many its bucket adds.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from benchmarks.harness import record
from engine.backend import Generation
from engine.loading.device import BATCHED_TOKENS, STEP_OVERHEAD
from engine.loading.memory_budget import TYPICAL_TOKENS
from engine.model.cuda.batch import EAGER_STEP, graph_buckets
from engine.schedule.block_pool import BLOCK, BlockPool, blocks_for
from engine.schedule.plan import Plan
from engine.schedule.scheduler import Scheduler
from engine.schedule.sequence import Sequence as EngineSequence
from engine.schedule.waiting_room import WaitingRoom
from engine.text.detokenizer import Detokenizer, TokenTable
from engine.types import GenerationRequest, SamplingParams, TokensPrompt

PROMPTS, ANSWERS = (50, 300), (64, 256)
VOCABULARY = 50_000
ROWS = 256
CACHES = (16_384, 65_536, 131_072)  # tokens
CLIENTS = (1, 8, 64, 128, 256)
TABLE = TokenTable([b"x"], cleans=False)
FOREVER = 1e9  # seconds


@dataclass(slots=True)
class Seen:
    """What the steps looked like after the first requests had ended."""

    running: list[int] = field(default_factory=list)
    used: list[float] = field(default_factory=list)  # blocks with users, of all
    filled: list[float] = field(default_factory=list)  # tokens of the sequences, of those that their blocks hold
    tokens: list[int] = field(default_factory=list)
    padded: list[int] = field(default_factory=list)
    preemptions: int = 0
    given_up: int = 0  # computed tokens of preempted requests; what is not evicted meanwhile is found again


class Simulation:
    """A closed loop of clients over the scheduler and the pool."""

    def __init__(self, cache_tokens: int, clients: int, seed: int = 0) -> None:
        self._rng, self._numbers, self._clients = random.Random(seed), itertools.count(), clients
        self._room = WaitingRoom(clients, 10**9, lambda: 0.0, slots=clients)
        self.pool = BlockPool(cache_tokens // BLOCK + 1)
        budget, overhead = BATCHED_TOKENS["cuda"], STEP_OVERHEAD["cuda"]
        self._scheduler = Scheduler(self._room, self.pool, ROWS, budget, lambda sequence: True, overhead)
        self._buckets = graph_buckets()

    def run(self, requests: int) -> Seen:
        """Answer so many requests, after as many as there are clients have been answered unobserved."""
        for _ in range(self._clients):
            self._come()
        ended, seen = 0, Seen()
        while ended < self._clients + requests:
            if ended <= self._clients:
                seen.preemptions = seen.given_up = 0
            plan = self._plan(seen)
            if ended > self._clients:
                self._observe(plan, seen)
            for _ in self._compute(plan):
                ended += 1
                self._come()
        return seen

    def _come(self) -> None:
        number, rng = next(self._numbers), self._rng
        ids = [rng.randrange(VOCABULARY) for _ in range(rng.randint(*PROMPTS))]
        sampling = SamplingParams(rng.randint(*ANSWERS))
        request = GenerationRequest(str(number), TokensPrompt(()), sampling)
        generation = Generation(request.request_id, len(ids), time.monotonic() + FOREVER, lambda: None)
        self._room.admit(request.client)
        self._room.put(EngineSequence(request, ids, generation, Detokenizer(TABLE), 0.0, list(ids)))

    def _plan(self, seen: Seen) -> Plan:
        while (victim := self._scheduler.sequence_to_preempt()) is not None:
            seen.preemptions += 1
            seen.given_up += victim.num_computed
            self._scheduler.preempt(victim)
        return self._scheduler.schedule()

    def _observe(self, plan: Plan, seen: Seen) -> None:
        running = self._scheduler.running
        held = sum(sequence.num_computed for sequence in running)
        blocks = sum(len(sequence.blocks) for sequence in running)
        seen.running.append(len(running))
        seen.used.append(self.pool.used / (self.pool.num_blocks - 1))
        seen.filled.append(held / (blocks * BLOCK))
        tokens = sum(count for _, count in plan.rows)
        seen.tokens.append(tokens)
        seen.padded.append(self._bucket(tokens))

    def _bucket(self, tokens: int) -> int:
        larger = (bucket for bucket in self._buckets if bucket >= tokens)
        return next(larger, -(-tokens // EAGER_STEP) * EAGER_STEP)

    def _compute(self, plan: Plan) -> Iterator[EngineSequence]:
        """Compute a step; yield the sequences that have ended with it."""
        for sequence, count in plan.rows:
            sequence.num_computed += count
            if sequence.remaining == 0:
                sequence.append(0)
                self._scheduler.register(sequence)
        for sequence in [s for s, _ in plan.rows if s.num_output >= s.sampling.max_tokens]:
            self._scheduler.finish(sequence)
            self._room.release(sequence.request.client)
            yield sequence


def cache_row(tokens: int, requests: int) -> tuple[str, ...]:
    """Return the row of one cache that more clients want than fit."""
    seen = Simulation(tokens, ROWS + 64).run(requests)
    promised = min(ROWS, tokens // (blocks_for(TYPICAL_TOKENS) * BLOCK))
    return (
        f"{tokens:,} tokens",
        f"{promised}",
        f"{fmean(seen.running):.0f}",
        f"{fmean(seen.used):.0%}",
        f"{fmean(seen.filled):.0%}",
        f"{seen.preemptions / requests:.2f}",
        f"{seen.given_up / requests:.0f}",
    )


def bucket_row(clients: int, requests: int) -> tuple[str, ...]:
    """Return the row of one number of clients over a large cache."""
    seen = Simulation(ROWS * 1024, clients).run(requests)
    graphs = sum(padded <= graph_buckets()[-1] for padded in seen.padded) / len(seen.padded)
    waste = sum(seen.padded) / sum(seen.tokens) - 1
    prompts = sum(tokens > running for tokens, running in zip(seen.tokens, seen.running, strict=True))
    return (
        f"c={clients}",
        f"{fmean(seen.tokens):.0f}",
        f"{prompts / len(seen.tokens):.0%}",
        f"{graphs:.0%}",
        f"{waste:.1%}",
    )


CACHE_HEADER = (
    "cache", "requests of typical size", "running", "used", "of used blocks filled", "preemptions a request",
    "tokens given up a request",
)  # fmt: skip
BUCKET_HEADER = ("clients", "tokens a step", "steps with prompts", "steps with a graph", "padding")


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000, help="of each row")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    options = parser.parse_args(argv)
    found = record.facts(["numpy"])
    caches = [cache_row(tokens, options.requests) for tokens in CACHES]
    buckets = [bucket_row(clients, options.requests) for clients in CLIENTS]
    tables = [record.table(CACHE_HEADER, caches), record.table(BUCKET_HEADER, buckets)]
    written = {
        "caches": [dict(zip(CACHE_HEADER, row, strict=True)) for row in caches],
        "buckets": [dict(zip(BUCKET_HEADER, row, strict=True)) for row in buckets],
    }
    path = record.write("page_use", found, written, "Blocks and buckets, simulated", tables, options.results)
    print(path.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
