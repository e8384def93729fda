"""Drives the engine's core step by step, on a clock that only the test moves."""

from __future__ import annotations

from engine.admission import make_sequence
from engine.engine_core import Counters, EngineCore
from engine.prefix_scopes import PrefixScopes
from engine.schedule.block_pool import BlockPool
from engine.schedule.waiting_room import WaitingRoom
from engine.types import ChatPrompt, EngineConfig, GenerationRequest, Priority, SamplingParams


def chat(text, *images):
    """Return a conversation of one turn, with the images first."""
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    return ChatPrompt(({"role": "user", "content": parts if images else text},), tuple(images))


class Driver:
    """An engine core over any runner, without its thread. `now` is its clock, in seconds; loaded may be None.

    pool: by default a new one over all blocks of the runner's KV cache. Drivers of one runner share its pool where one
    is to find what another computed.
    """

    def __init__(self, loaded, runner, pool=None, **limits):
        self.now = 0.0
        self.loaded, self.runner, self.scopes = loaded, runner, PrefixScopes()
        self.config = EngineConfig(**({"max_num_seqs": 4, "max_num_batched_tokens": 64} | limits))
        slots = self.config.max_num_seqs
        self.room = WaitingRoom(slots + self.config.max_waiting, 1_000_000, self.clock, slots)
        self.counters = Counters()
        num_blocks = getattr(runner, "num_blocks", 1000)
        self.pool = BlockPool(num_blocks, self.config.prefix_cache) if pool is None else pool
        self.core = EngineCore(
            self.room,
            runner,
            self.pool,
            self.config,
            loaded.eos_token_ids if loaded else frozenset(),
            self.counters,
            self.clock,
        )

    def clock(self):
        return self.now

    def submit(
        self, prompt, max_tokens=8, *, client="", request_id="r", priority=0, timeout=300.0, wait=30.0, **params
    ):
        """Queue a request and return its sequence."""
        sampling = SamplingParams(max_tokens, **({"temperature": 0.0} | params))
        request = GenerationRequest(request_id, prompt, sampling, client, Priority(priority), wait, timeout)
        self.room.admit(client)
        sequence = make_sequence(self.loaded, request, self.now, self.room.notify_abort, self.clock, scopes=self.scopes)
        self.room.put(sequence)
        return sequence

    def run(self, steps=10_000):
        """Step until nothing is left to do, at most `steps` times; return how many were done."""
        done = 0
        while done < steps and self.core.step():
            self.now += 0.01
            done += 1
        return done
