"""The questions to a fleet of some size, each answered by simulations: one table row each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.fleet.autoscaler import Signal
from benchmarks.fleet.replica import Machine
from benchmarks.fleet.simulation import Fleet, Scenario, first_token, within
from benchmarks.harness.figures import Outcome

# Qwen3-8B in float16 on one H100. step, row: least squares over the four loads of results/card/h100/load.md, with the
# tokens of a step in page_use.md, up to 264. Nothing larger was measured: `token` assumes that prompts are computed at
# 60% of the card's 989 TFLOP/s, 2 FLOP for each of 8.2e9 weights. cache: results/card/h100/defaults.md; start: its 43 s
# and 17 s for the pod.
H100 = Machine(step=5.73e-3, row=21.2e-6, token=27.6e-6, slots=256, cache=221_120, hop=0.003, start=60.0)
WARM_UP = 60.0  # seconds before the load grows
NORMAL, SURGE = 10.0, 30.0  # requests a second of each copy that is there at first
PER_COPY = 20.0  # requests a second of a copy when one is lost

SIGNALS = (
    Signal("waiting requests, 8 a copy", lambda replica: replica.waiting, 8),
    Signal("waiting requests, 1 a copy", lambda replica: replica.waiting, 1),
    Signal("waiting and running requests, 64 a copy", lambda r: r.waiting + r.running, 64),
    Signal("waiting and running requests, 96 a copy", lambda r: r.waiting + r.running, 96),
    Signal("cache in use, 50%", lambda replica: replica.cache_usage, 0.5),
    Signal("GPU busy, 80%", lambda replica: float(replica.running > 0), 0.8),
)


@dataclass(frozen=True, slots=True)
class Effort:
    """What is tried with a fleet, and for how many seconds: a thousand copies take a minute for each of theirs.

    loads: requests a second of each copy; settle: before anything is measured.
    """

    loads: tuple[float, ...] = (10.0, 20.0, 24.0, 28.0)
    rules: tuple[str, ...] = ("leastconn", "hash", "bounded", "round robin")
    settle: float = 60.0
    measured: float = 60.0
    loss_rules: tuple[str, ...] = ("leastconn", "hash")
    surge: float = 1200.0
    signals: tuple[Signal, ...] = SIGNALS


def effort_for(copies: int) -> Effort:
    """Return what is tried with so many copies."""
    if copies <= 10:
        return Effort()
    if copies <= 100:
        two = (SIGNALS[0], SIGNALS[2])
        return Effort((20.0, 28.0), ("leastconn", "bounded"), 20.0, 20.0, surge=300.0, signals=two)
    return Effort((20.0,), ("leastconn",), 10.0, 5.0, ("leastconn",), 300.0, (SIGNALS[2],))


LOAD_HEADER = (
    "copies", "requests/s a copy", "rule", "goodput, requests/s", "within objective", "first token p50 / p99, ms",
    "prompt tokens reused", "failed",
)  # fmt: skip
LOSS_HEADER = (
    "copies", "load a copy", "rule", "requests lost with it", "first token p99 before, ms", "in the 10 s after, ms",
    "within objective while measured", "other failures",
)  # fmt: skip
SCALE_HEADER = (
    "copies at first", "signal", "within objective", "failed", "first token p99, ms", "copy-hours, of the ideal",
    "most copies",
)  # fmt: skip


def load_row(copies: int, load: float, rule: str, effort: Effort, seed: int = 0) -> tuple[str, ...]:
    """Return how a fleet does at a constant load."""
    rate = copies * load
    window = (effort.settle, effort.settle + effort.measured)
    seen = Fleet(Scenario(H100, copies, lambda _: rate, rate, window, rule, seed=seed)).run()
    outcomes = seen.between(*window)
    share = within(outcomes)
    return (
        f"{copies:,}",
        f"{load:g}",
        rule,
        f"{share * len(outcomes) / effort.measured:,.0f}",
        f"{share:.2%}",
        f"{_ms(outcomes, 50)} / {_ms(outcomes, 99)}",
        f"{seen.reused / max(1, seen.reused + seen.computed):.0%}",
        f"{_failed(outcomes)} of {len(outcomes):,}",
    )


def loss_row(copies: int, load: float, rule: str, effort: Effort, seed: int = 0) -> tuple[str, ...]:
    """Return what the loss of one machine costs, with a new copy after `machine.start`."""
    rate, half, at = copies * load, effort.settle / 2, effort.settle
    window = (half, at + effort.measured)
    seen = Fleet(Scenario(H100, copies, lambda _: rate, rate, window, rule, (at,), seed=seed)).run()
    before, soon = seen.between(half, at - min(5.0, half / 2)), seen.between(at, at + 10)
    after = seen.between(at, at + effort.measured)
    lost = seen.errors.get("lost", 0)
    return (
        f"{copies:,}",
        f"{load:g}",
        rule,
        f"{lost}",
        f"{_ms(before, 99)}",
        f"{_ms(soon, 99)}",
        f"{within(after):.2%}",
        f"{sum(seen.errors.values()) - lost}",
    )


def scale_row(copies: int, signal: Signal, effort: Effort, seed: int = 0) -> tuple[str, ...]:
    """Return how an autoscaler does on one signal when the load grows threefold in a minute, and falls again later."""
    rate = surge(copies, effort.surge)
    window = (WARM_UP, WARM_UP + effort.surge)
    scenario = Scenario(H100, copies, rate, copies * SURGE, window, signal=signal, most=4 * copies, seed=seed)
    seen = Fleet(scenario).run()
    outcomes = seen.between(*window)
    return (
        f"{copies:,}",
        signal.name,
        f"{within(outcomes):.2%}",
        f"{_failed(outcomes):,} of {len(outcomes):,}",
        f"{_ms(outcomes, 99)}",
        f"{seen.replica_seconds / ideal(rate, copies, window):.2f}",
        f"{seen.most:,}",
    )


def surge(copies: int, seconds: float) -> Callable[[float], float]:
    """Return a rate that is NORMAL, grows to SURGE within a minute after the warm-up, and falls after two thirds."""

    def rate(now: float) -> float:
        rising = min(1.0, max(0.0, (now - WARM_UP) / 60))
        falling = min(1.0, max(0.0, (now - WARM_UP - seconds * 2 / 3) / 60))
        return copies * (NORMAL + (SURGE - NORMAL) * (rising - falling))

    return rate


def ideal(rate: Callable[[float], float], copies: int, window: tuple[float, float]) -> float:
    """Return the copy-seconds of a fleet that always has PER_COPY requests a second for each copy."""
    seconds = range(round(window[0]), round(window[1]))
    return sum(max(copies, math.ceil(rate(float(second)) / PER_COPY)) for second in seconds)


def _ms(outcomes: list[Outcome], percent: float) -> str:
    return f"{1e3 * first_token(outcomes, percent):,.0f}" if outcomes else "n/a"


def _failed(outcomes: list[Outcome]) -> int:
    return sum(outcome.error is not None for outcome in outcomes)
