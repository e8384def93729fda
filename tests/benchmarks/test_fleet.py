"""The simulation of fleets: limits of a copy, rules of the balancers and the autoscaler, the loss of a copy."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean

import pytest

simpy = pytest.importorskip("simpy")

from benchmarks.fleet import __main__ as program  # noqa: E402
from benchmarks.fleet import questions  # noqa: E402
from benchmarks.fleet.autoscaler import Autoscaler, Signal  # noqa: E402
from benchmarks.fleet.balancer import FACTOR, Balancer  # noqa: E402
from benchmarks.fleet.replica import Job, Machine, Replica  # noqa: E402
from benchmarks.fleet.simulation import Fleet, Scenario, within  # noqa: E402
from benchmarks.fleet.traffic import Conversations, Lengths, Turn  # noqa: E402

MACHINE = Machine(step=0.01, row=0.001, token=0.0001, slots=4, cache=10_000, budget=512, waiting=2)


def served(machine, turns, at=lambda number: 0.0):
    """Return the jobs of these turns after a copy has served them all."""
    env, jobs = simpy.Environment(), []
    replica = Replica(env, machine, 0)
    for number, turn in enumerate(turns):
        jobs.append(Job(turn, at(number), lambda job: None))
        env.timeout(at(number)).callbacks.append(lambda _, job=jobs[-1]: replica.submit(job))
    env.run(1000)
    return jobs


def test_one_request_takes_a_step_for_its_prompt_and_one_for_each_further_token() -> None:
    """The first token comes with the prompt's step; each later one with a step of its own."""
    (job,) = served(MACHINE, [Turn(1, prompt=100, answer=11)])
    assert job.first == pytest.approx(0.01 + 100 * 0.0001)
    assert job.ended - job.first == pytest.approx(10 * (0.01 + 0.001))


def test_a_long_prompt_is_computed_in_steps_of_the_budget() -> None:
    """1,024 tokens take two steps of 512."""
    (job,) = served(MACHINE, [Turn(1, prompt=1024, answer=1)])
    assert job.first == job.ended == pytest.approx(2 * 0.01 + 1024 * 0.0001)


def test_a_request_that_comes_during_decoding_waits_for_one_step_only() -> None:
    """Steps that are simulated together are divided where a request comes."""
    _, late = served(MACHINE, [Turn(1, 100, 200), Turn(2, 100, 1)], at=lambda number: number * 0.5)
    assert late.first - 0.5 < 2 * (0.01 + 100 * 0.0001 + 0.001)


def test_what_exceeds_slots_and_queue_is_refused() -> None:
    """Four run, two wait, the seventh is refused."""
    errors = [job.error for job in served(MACHINE, [Turn(number, 50, 5) for number in range(7)])]
    assert errors == [None] * 6 + ["refused"]


def test_who_waits_too_long_fails() -> None:
    """A request that has no slot within the queue's time-out ends with an error."""
    machine = Machine(step=1.0, row=0.0, token=0.0, slots=1, cache=10_000, waiting=2, queue_timeout=5.0)
    first, second = served(machine, [Turn(1, 10, 50), Turn(2, 10, 1)])
    assert (first.error, second.error) == (None, "deadline")


def test_requests_that_outgrow_the_cache_all_end() -> None:
    """The youngest gives its blocks up and resumes later."""
    machine = Machine(step=0.01, row=0.0, token=0.0, slots=4, cache=600, waiting=8)
    jobs = served(machine, [Turn(number, 100, 200) for number in range(4)])
    assert [job.error for job in jobs] == [None] * 4
    assert jobs[-1].ended > jobs[0].ended


def test_a_conversations_next_turn_finds_what_was_computed() -> None:
    """With the prefix in the cache, only the rest of the prompt is computed."""
    turns = [Turn(1, 400, 10), Turn(1, 500, 1, shared=400)]
    cold, warm = (served(MACHINE, pair, at=lambda n: n * 10.0)[1] for pair in ([Turn(9, 400, 10), turns[1]], turns))
    assert warm.first == pytest.approx(cold.first - 400 * 0.0001)


def test_lengths_are_those_of_the_trace() -> None:
    """The means of what is drawn are the published trace's: prompts of 1,155 tokens and answers of 211."""
    rng, lengths = random.Random(0), Lengths(longest=20_000)
    drawn = [lengths.draw(rng) for _ in range(10_000)]
    assert fmean(prompt for prompt, _ in drawn) == pytest.approx(1155, rel=0.06)
    assert fmean(answer for _, answer in drawn) == pytest.approx(211, rel=0.05)


def test_a_turn_shares_no_more_than_the_one_before_has_computed() -> None:
    """Prompts grow from turn to turn, and something of each is new."""
    conversations = Conversations(0, turns=4.0)
    for _ in range(100):
        turn = conversations.next()
        while (following := turn.following) is not None:
            assert following.shared <= turn.prompt + turn.answer
            assert following.shared < following.prompt >= turn.prompt
            turn = following


def balancer(rule, copies=8):
    """Return a balancer with copies that serve nothing."""
    made = Balancer(rule)
    for number in range(copies):
        made.add(Replica(simpy.Environment(), MACHINE, number))
    return made


def test_least_connections_stay_level() -> None:
    """No copy has two requests more than another."""
    made = balancer("leastconn")
    for conversation in range(100):
        made.choose(conversation % 3)
    loads = [replica.outstanding for replica in made.replicas]
    assert max(loads) - min(loads) <= 1


def test_a_hash_moves_few_conversations_when_a_copy_leaves() -> None:
    """Only the conversations of the copy that left go elsewhere."""
    made = balancer("hash")
    before = {conversation: made.choose(conversation) for conversation in range(500)}
    gone = made.replicas[3]
    made.remove(gone)
    moved = [conversation for conversation, replica in before.items() if made.choose(conversation) is not replica]
    assert moved == [conversation for conversation, replica in before.items() if replica is gone]
    assert 20 < len(moved) < 120


def test_bounded_loads_are_bounded() -> None:
    """One conversation's flood goes to its copy up to the bound, and on to others."""
    made = balancer("bounded")
    for _ in range(800):
        made.choose(7)
    assert max(replica.outstanding for replica in made.replicas) <= FACTOR * 801 / 8 + 1


def scaled(values, target=10.0, now=4, starting=0, least=1):
    """Return what is wanted after each of these values a copy."""
    read = iter([value for value in values for _ in range(now)])
    scaler = Autoscaler(Signal("", lambda replica: next(read), target), least, 100)
    return [scaler.wanted(range(now), starting) for _ in values]


def test_the_autoscaler_goes_by_the_ratio_and_the_value_before() -> None:
    """Twice the target doubles, with a period's delay; near the target nothing changes."""
    assert scaled([20.0, 20.0]) == [4, 8]
    assert scaled([10.9, 10.9, 10.9]) == [4, 4, 4]
    assert scaled([500.0, 500.0], now=20) == [20, 40]


def test_the_autoscaler_shrinks_only_after_a_while_and_counts_what_starts() -> None:
    """The largest number of the last five minutes holds, and copies that start count before more are wanted."""
    assert scaled([10.0, 10.0, *[1.0] * 21])[2:] == [4, *[4] * 18, 4, 1][: len(range(21))]
    assert scaled([20.0, 20.0], now=4, starting=4) == [8, 8]


def test_a_lost_copy_costs_its_requests_and_no_others() -> None:
    """What ran there fails, is repeated, and everything else is answered."""
    machine = Machine(step=0.01, row=0.001, token=0.0001, slots=16, cache=100_000, start=5.0)
    scenario = Scenario(machine, 4, lambda _: 20.0, 20.0, (5.0, 20.0), losses=(10.0,), lengths=Lengths(scale=0.1))
    seen = Fleet(scenario).run()
    assert set(seen.errors) == {"lost"}
    assert 0 < seen.errors["lost"] <= 16
    assert within(seen.between(12.5, 20.0)) == 1.0


def test_the_program_answers_every_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each load, rule and signal that is tried; the same seed gives the same figures."""
    effort = questions.Effort((5.0,), ("leastconn",), 1.0, 2.0, ("hash",), 3.0, questions.SIGNALS[:1])
    monkeypatch.setattr(questions, "effort_for", lambda copies: effort)
    written = []
    for folder in ("a", "b"):
        assert program.main(["--copies", "2", "--results", str(tmp_path / folder)]) == 0
        written.append(json.loads((tmp_path / folder / "fleet-2.json").read_text()))
    assert {name: len(written[0][name]) for name in ("loads", "losses", "scaling")} == dict.fromkeys(
        ("loads", "losses", "scaling"), 1
    )
    assert [written[0][name] for name in ("loads", "scaling")] == [written[1][name] for name in ("loads", "scaling")]
