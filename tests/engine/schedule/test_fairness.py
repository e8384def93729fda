"""One greedy client does not slow the others: simulated step by step, so that the figures are exact."""

import math
import random

import pytest

from engine.errors import Overloaded
from tests.engine.driver import Driver
from tests.engine.scripted_runner import ScriptedRunner
from tests.engine.sequences import sequence

STEP = 0.01  # seconds, by the driver's clock
OVERHEAD = 8  # tokens
OTHERS = "bcdefgh"


class Simulation:
    """Clients that ask, wait for the answer, pause and repeat; one keeps `open_by_greedy` requests open."""

    def __init__(self, open_by_greedy, seed, slots=8):
        self.driver = Driver(None, ScriptedRunner(), max_num_seqs=slots, max_waiting=24, max_num_batched_tokens=64)
        self.rng = random.Random(seed)
        self.quota = dict.fromkeys(OTHERS, 1) | {"greedy": open_by_greedy}
        self.open = {client: [] for client in self.quota}
        self.pause_until = dict.fromkeys(self.quota, 0)
        self.seconds = []

    def run(self, steps):
        for number in range(steps):
            for client in self.quota:
                self.collect(client, number)
                self.ask(client, number)
            self.driver.core.step()
            self.driver.now += self.seconds_of_step()
        return self

    def seconds_of_step(self):
        """Return what the last step took: its fixed cost, and as much again for every `step_overhead` tokens."""
        steps = self.driver.runner.steps
        tokens = sum(count for _, count in steps[-1]) if steps else 0
        return STEP * (1 + tokens / OVERHEAD)

    def collect(self, client, number):
        for submitted in [submitted for submitted in self.open[client] if submitted.generation.done]:
            self.open[client].remove(submitted)
            self.pause_until[client] = number + self.rng.randrange(10)
            if client != "greedy":
                self.seconds.append(submitted.generation.result().timings.total)

    def ask(self, client, number):
        while len(self.open[client]) < self.quota[client] and number >= self.pause_until[client]:
            try:
                self.driver.room.admit(client)
            except Overloaded:
                assert client == "greedy"
                return
            submitted = sequence(client, self.rng.randint(4, 40), self.rng.randint(10, 40), arrival=self.driver.now)
            self.driver.room.put(submitted)
            self.open[client].append(submitted)

    def p95(self):
        return sorted(self.seconds)[math.ceil(0.95 * len(self.seconds)) - 1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("slots", "requests"), [(8, 40), (64, 100)])
def test_a_greedy_client_does_not_slow_the_others(slots, requests, seed):
    """Others' p95 with a client that keeps so many requests open is within 1.25 of its share of one; none is refused.

    A step takes as long as its tokens need, so this holds for what it computes, not only for the slots.
    """
    modest = Simulation(1, seed, slots).run(3000)
    greedy = Simulation(requests, seed, slots).run(3000)
    assert len(greedy.seconds) > 300
    assert greedy.p95() <= 1.25 * modest.p95()


def test_batches_advance_while_interactive_requests_want_every_slot():
    """Under an endless interactive load, batch requests finish by their share of the starts."""
    driver = Driver(None, ScriptedRunner(), max_num_seqs=4, max_waiting=40, max_num_batched_tokens=64)
    batch = []
    interactive = []
    for step in range(600):
        interactive = [submitted for submitted in interactive if not submitted.generation.done]
        while len(interactive) < 12:
            driver.room.admit(f"visitor-{len(interactive)}")
            interactive.append(sequence(f"visitor-{len(interactive)}", 8, 10, arrival=driver.now))
            driver.room.put(interactive[-1])
        if step < 8:
            driver.room.admit("job")
            batch.append(sequence("job", 8, 10, batch=True, arrival=driver.now))
            driver.room.put(batch[-1])
        driver.core.step()
        driver.now += STEP
    assert all(
        submitted.generation.done and submitted.generation.result().finish_reason == "length" for submitted in batch
    )
