"""What a server may do wrong, and what follows: a retry while the client has nothing, one typed error, a breaker."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from config import Upstream
from engine.backend import Generation
from engine.errors import (
    ContextTooLong,
    EngineDead,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    RequestAborted,
    RetryLater,
    ServiceError,
    UpstreamFailed,
    UpstreamTimedOut,
    ValidationError,
)
from engine.types import AnswerRules, GenerationRequest, Status
from settings.upstream_kinds import KINDS
from tests.fake_upstream import FakeUpstream, event
from tests.fakes import Clock, ScriptedBackend
from tests.upstream.conftest import Open, asking
from tests.upstream.test_backend import SAID
from upstream.answer import Withheld
from upstream.backend import UpstreamBackend
from upstream.failures import AttemptFailed, retry_after_of
from upstream.fleet import Fleet
from upstream.loop import THREADS, UpstreamLoop
from upstream.replica import TOGETHER, Replica
from upstream.standing_in import StandingIn

PATIENCE = 60.0
FAULTS = "reset,500,502,504,503,429,408,html,nonsense,error event,half,cut,401,404,302".split(",")
# What a server that is silent, or becomes so, is waited for; elsewhere a busy machine shall not reach a limit.
LIMITS = {"silent": {"first_token_timeout": 0.3}, "stall": {"idle_timeout": 0.3}}


def limits_for(fault: str) -> dict[str, float]:
    """Return the time-outs with which a fault is found soon."""
    return LIMITS.get(fault, {})


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; fail the test if it does not in time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def failure_of(generation: Generation) -> ServiceError:
    """Return the error that an answer ends with."""
    with pytest.raises(ServiceError) as caught:
        generation.result()
    return caught.value


def state_of(backend: UpstreamBackend, number: int = 0) -> str:
    return backend.reports()[number].state


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_mended_while_the_client_has_nothing(server: FakeUpstream, opened: Open, fault: str) -> None:
    """Whatever the fault; half an answer as well, for a client that does not stream."""
    backend = opened()
    server.script.faults = [fault]
    assert backend.submit(asking()).result().text == SAID
    assert len(server.heard) == 2
    assert sum(backend.reports()[0].failures.values()) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(fault, Overloaded if fault == "429" else UpstreamFailed) for fault in FAULTS if fault != "503"]
    + [("503", Overloaded), ("silent", UpstreamTimedOut), ("stall", UpstreamTimedOut)],
)
def test_a_lasting_fault_is_one_typed_error(server: FakeUpstream, opened: Open, fault: str, kind: type) -> None:
    """After the attempts that are allowed, and nothing of the server's words is in it."""
    backend = opened(retries=1, **limits_for(fault))
    server.script.faults = [fault] * 2
    error = failure_of(backend.submit(asking()))
    assert isinstance(error, kind)
    assert "secret" not in error.message
    assert backend.reports()[0].requests == 2
    assert fault in LIMITS or len(server.heard) == 2  # what is given up so soon need not have been heard


@pytest.mark.parametrize(
    ("fault", "kind"), [("400", ValidationError), ("422", ValidationError), ("413", PayloadTooLarge)]
)
def test_a_clients_mistake_is_not_repeated(server: FakeUpstream, opened: Open, fault: str, kind: type) -> None:
    """Nor does it count against the server."""
    backend = opened(breaker_failures=1)
    server.script.faults = [fault]
    error = failure_of(backend.submit(asking()))
    assert type(error) is kind
    assert "secret" not in error.message
    assert (len(server.heard), state_of(backend)) == (1, "closed")
    (report,) = backend.reports()
    assert (report.failures, report.last_failure) == ({f"status_{fault}": 1}, None)


@pytest.mark.parametrize(
    ("param", "told"), [("messages[0].content", "messages[0].content"), ("secret words", None), (5, None)]
)
def test_of_a_refusal_a_fields_name_is_passed_on(
    server: FakeUpstream, opened: Open, param: object, told: str | None
) -> None:
    """Nothing else that a server writes there."""
    server.script.refusal = [json.dumps({"error": {"param": param}}).encode()]
    server.script.faults = ["400"]
    error = failure_of(opened().submit(asking()))
    assert isinstance(error, ValidationError)
    assert error.param == told


@pytest.mark.parametrize("fault", ["cut", "half", "nonsense"])
def test_what_broke_off_before_a_server_counted_it_is_not_charged(
    server: FakeUpstream, opened: Open, fault: str
) -> None:
    """It is repeated, and the client has one answer, for which it pays."""
    backend = opened()
    server.script.faults = [fault]
    generation = backend.submit(asking())
    generation.result()
    assert (generation.spent.prompt_tokens, generation.spent.output_tokens) == (11, 11)


@pytest.mark.parametrize("usage", [True, False])
def test_what_every_attempt_took_that_broke_its_form_is_charged(
    server: FakeUpstream, opened: Open, usage: bool
) -> None:
    """Each was whole: a schema that a model does not keep is paid for each time, by the server's usage or about."""
    server.script.usage = usage
    rules = AnswerRules("response_format", {"type": "object"})
    once, often = (opened(retries=retries).submit(asking(rules=rules)) for retries in (0, 2))
    assert isinstance(failure_of(once), UpstreamFailed)
    assert isinstance(failure_of(often), UpstreamFailed)
    assert not usage or (once.spent.prompt_tokens, once.spent.output_tokens) == (11, 11)
    assert once.spent.output_tokens >= 11
    assert often.spent.prompt_tokens == 3 * once.spent.prompt_tokens
    assert often.spent.output_tokens == 3 * once.spent.output_tokens


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("400", {"message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}),
        ("400", {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}),
        ("429", {"message": "You exceeded your current quota.", "code": "insufficient_quota"}),
        ("402", {"message": "Insufficient Balance"}),
    ],
)
def test_what_is_wrong_with_the_operators_account_is_no_mistake_of_a_client(
    server: FakeUpstream, opened: Open, caplog: pytest.LogCaptureFixture, status: str, said: dict[str, str]
) -> None:
    """Providers say it with many a status; the log and the figures say it too, and no client is blamed."""
    backend = opened(retries=0, breaker_failures=2)
    server.script.refusal, server.script.faults = [json.dumps({"error": said}).encode()], [status] * 2
    assert isinstance(failure_of(backend.submit(asking())), UpstreamFailed)
    assert any("in the settings is wrong" in one.message for one in caplog.records)
    assert backend.reports()[0].failures == {f"status_{status}": 1}
    failure_of(backend.submit(asking(client="another")))
    assert state_of(backend) == "open"


@pytest.mark.parametrize("said", ["You sent: insufficient_quota, API key not valid.", "bad value 'api_key_invalid'"])
def test_what_a_refusal_repeats_of_a_clients_words_is_not_of_the_account(
    server: FakeUpstream, opened: Open, caplog: pytest.LogCaptureFixture, said: str
) -> None:
    """A client could have the server taken for broken, and the operator look for another key."""
    backend = opened(retries=0, breaker_failures=1)
    server.script.refusal = [json.dumps({"error": {"message": said, "input": "insufficient_quota"}}).encode()]
    server.script.faults = ["422"] * 2
    for client in "ab":
        assert isinstance(failure_of(backend.submit(asking(client=client))), ValidationError)
    assert state_of(backend) == "closed"
    assert not any("in the settings is wrong" in one.message for one in caplog.records)


LONG = "The input (5000 tokens) is longer than the model's context length (4096 tokens)."


@pytest.mark.parametrize(
    ("told", "kind", "status"),
    [
        ({"error": {"message": LONG, "type": "BadRequestError", "param": None, "code": 400}}, ContextTooLong, 400),
        ({"object": "error", "message": LONG, "type": "BadRequestError", "code": 400}, ContextTooLong, 400),
        ({"error": LONG, "code": "400"}, ContextTooLong, 400),
        ({"error": {"message": "secret words", "code": "422"}, "choices": []}, ValidationError, 422),
        ({"error": {"message": "secret words", "code": "invalid", "status": 413}}, PayloadTooLarge, 413),
    ],
)
def test_a_clients_mistake_that_is_told_within_a_stream_is_one(
    server: FakeUpstream, opened: Open, told: object, kind: type, status: int
) -> None:
    """Some servers have said 200 by then; it is not repeated, and opens no breaker."""
    backend = opened(breaker_failures=1)
    server.script.raw = [event({"choices": [{"delta": {"role": "assistant", "content": ""}}]}), event(told)]
    error = failure_of(backend.submit(asking()))
    assert type(error) is kind
    assert "secret" not in error.message
    assert (len(server.heard), state_of(backend)) == (1, "closed")
    assert backend.reports()[0].failures == {f"status_{status}": 1}


@pytest.mark.parametrize(
    ("told", "kind", "counted", "opens"),
    [
        ({"error": {"message": "secret words", "code": 429}}, Overloaded, "status_429", False),
        ({"error": {"message": "secret words", "code": 500}}, UpstreamFailed, "status_500", True),
        ({"error": {"message": "secret words", "code": 401}}, UpstreamFailed, "status_401", True),
        ({"error": {"message": "secret words", "code": "server_error"}}, UpstreamFailed, "nonsense", True),
        ({"error": {"message": "secret words", "code": 4000, "status": True}}, UpstreamFailed, "nonsense", True),
        ({"object": "error", "message": "secret words", "code": None}, UpstreamFailed, "nonsense", True),
    ],
)
def test_another_failure_that_is_told_within_a_stream_is_what_its_status_says(
    server: FakeUpstream, opened: Open, told: object, kind: type, counted: str, opens: bool
) -> None:
    """It is repeated as it would be with that status; without one, it is a failure of the server."""
    backend = opened(retries=1, breaker_failures=1)
    server.script.raw = [event(told)]
    error = failure_of(backend.submit(asking()))
    assert isinstance(error, kind)
    assert "secret" not in error.message
    assert (backend.reports()[0].failures[counted], state_of(backend)) == ((1, "open") if opens else (2, "closed"))


def test_an_error_behind_a_part_of_the_answer_is_the_servers(server: FakeUpstream, opened: Open) -> None:
    """It had taken the request, whatever it says then."""
    backend = opened(retries=1)
    server.script.raw = [event({"choices": [{"delta": {"content": "The"}}]}), event({"error": {"code": 400}})]
    assert isinstance(failure_of(backend.submit(asking())), UpstreamFailed)
    assert backend.reports()[0].failures == {"nonsense": 2}


@pytest.mark.parametrize(
    "withheld",
    [
        {"finish": "content_filter"},
        {"finish": "SPII"},
        {"finish": "IMAGE_SAFETY"},
        {"finish": "LANGUAGE"},
        {"deltas": [{"refusal": "No."}]},
    ],
)
def test_what_a_server_will_not_say_is_not_repeated(
    server: FakeUpstream, opened: Open, withheld: dict[str, object]
) -> None:
    """Nor does it count against the server: one client's questions would keep it from all others."""
    backend = opened(breaker_failures=1)
    server.script = replace(server.script, **withheld)  # type: ignore[arg-type]
    assert isinstance(failure_of(backend.submit(asking())), UpstreamFailed)
    assert (len(server.heard), state_of(backend)) == (1, "closed")


@pytest.mark.parametrize(
    "error",
    [
        {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["violence"]}},
        {"code": 403, "message": "x", "metadata": {"reasons": [], "flagged_input": "secret words"}},
        {"code": "content_policy_violation", "message": "x"},
        {"code": "403", "type": "Content_Filter"},
    ],
)
@pytest.mark.parametrize("within", [False, True])
def test_a_403_of_a_filter_is_no_mistake_in_the_settings(
    server: FakeUpstream, opened: Open, caplog: pytest.LogCaptureFixture, error: dict[str, object], within: bool
) -> None:
    """One client's words would open the breaker for all; nothing of what the filter has found is told."""
    backend = opened(breaker_failures=1)
    told = {"error": error | ({"code": 403, "type": error.get("type", error["code"])} if within else {})}
    server.script.faults = ["200" if within else "403"]
    server.script.refusal = [event(told) if within else json.dumps(told).encode()]
    failure = failure_of(backend.submit(asking()))
    assert isinstance(failure, Withheld)
    assert "secret" not in failure.message
    assert (len(server.heard), state_of(backend)) == (1, "closed")
    assert not any("in the settings is wrong" in one.message for one in caplog.records)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error": "flagged_input"}', b'{"error": {"metadata": 5, "code": []}}', b'"x"']
)
def test_another_403_is_one_in_the_settings(
    server: FakeUpstream, opened: Open, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    """Whatever stands in its body."""
    backend = opened(retries=0)
    server.script.faults, server.script.refusal = ["403"], [body] if body else []
    assert not isinstance(failure_of(backend.submit(asking())), Withheld)
    assert backend.reports()[0].failures == {"status_403": 1}
    assert any("in the settings is wrong" in one.message for one in caplog.records)


@pytest.mark.parametrize("fault", ["half", "cut", "nonsense", "stall", "error event"])
def test_nothing_is_repeated_once_the_client_has_a_part(server: FakeUpstream, opened: Open, fault: str) -> None:
    """The stream ends with one typed error, and what came before is accounted."""
    backend = opened(**limits_for(fault))
    server.script.faults, server.script.gap = [fault], 0.02
    generation = backend.submit(asking())
    shown = []
    with pytest.raises(UpstreamTimedOut if fault == "stall" else UpstreamFailed):
        shown += [piece.text for piece in generation.pieces()]  # kept by the next line alone
    assert len(server.heard) == 1
    assert generation.spent.output_tokens > 0


def test_silence_in_an_answer_is_found_long_before_the_first_event_would_be_due(
    server: FakeUpstream, opened: Open
) -> None:
    """The shorter limit holds from the first event on."""
    backend = opened(retries=0, first_token_timeout=600, idle_timeout=0.2)
    server.script.faults = ["stall"]
    assert isinstance(failure_of(backend.submit(asking())), UpstreamTimedOut)


def test_a_pause_that_the_server_asks_for_is_made(server: FakeUpstream, opened: Open) -> None:
    """A longer one than is waited for goes to the client."""
    server.script.retry_after = "0.2"
    backend = opened()
    server.script.faults = ["429"]
    began = time.monotonic()
    assert backend.submit(asking()).result().text == SAID
    assert time.monotonic() - began >= 0.2
    server.script.retry_after, server.script.faults = "40", ["429"]
    error = failure_of(backend.submit(asking()))
    assert isinstance(error, RetryLater)
    assert error.retry_after == 40


@pytest.mark.parametrize("first", ["40", "0.2"])
def test_the_server_that_asks_for_the_shortest_pause_is_asked_again(
    server: FakeUpstream, other: FakeUpstream, opened: Open, first: str
) -> None:
    """Whichever of them was asked first, and not the one that wants to be left alone for longer."""
    backend = opened(urls=(server.url, other.url), retries=2)
    server.script.retry_after, other.script.retry_after = first, "0.2" if first == "40" else "40"
    server.script.faults, other.script.faults = ["429"], ["429"]
    assert backend.submit(asking()).result().text == SAID
    assert (len(server.heard), len(other.heard)) == ((1, 2) if first == "40" else (2, 1))


def test_the_shortest_pause_is_the_clients_too(server: FakeUpstream, other: FakeUpstream, opened: Open) -> None:
    """Where each is longer than is waited for."""
    backend = opened(urls=(server.url, other.url), retries=2)
    for one, pause in ((server, "40"), (other, "30")):
        one.script.retry_after, one.script.always = pause, "429"
    error = failure_of(backend.submit(asking()))
    assert isinstance(error, RetryLater)
    assert error.retry_after == 30


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("99999", 60.0), ("soon", None), ("nan", None), (None, None)],
)
def test_what_a_retry_after_says(text: str | None, seconds: float | None) -> None:
    """A number of seconds within reason, or nothing."""
    assert retry_after_of(text) == seconds


@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_a_date_is_read_too(monkeypatch: pytest.MonkeyPatch, form: str, zone: str) -> None:
    """In each of the forms of RFC 9110, section 5.6.7, all in GMT; one that has passed asks for no pause."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        seconds = retry_after_of(time.strftime(form, time.gmtime(time.time() + 40)))
        assert seconds is not None
        assert 20 < seconds <= 40
        assert retry_after_of(time.strftime(form, time.gmtime(1445412480))) == 0.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_proxies_of_the_environment_are_not_used(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is for the server of the settings."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert opened(retries=0).submit(asking()).result().text == SAID


def test_redirects_are_not_followed(server: FakeUpstream, opened: Open) -> None:
    """Wherever they point, the request and its key stay here."""
    backend = opened(retries=0)
    server.script.faults = ["307"]
    assert isinstance(failure_of(backend.submit(asking())), UpstreamFailed)


@pytest.mark.parametrize("status", ["401", "403", "404", "307"])
def test_settings_that_seem_wrong_are_told_in_the_log(
    server: FakeUpstream, opened: Open, caplog: pytest.LogCaptureFixture, status: str
) -> None:
    """By the model and the number of the server, once a minute; neither its address nor its key is told."""
    clock = Clock()
    backend = opened(retries=0, key="a-secret", clock=clock, breaker_failures=1000)
    server.script.always = status
    with caplog.at_level(logging.WARNING, "avito_ai.upstream"):
        for _ in range(3):
            failure_of(backend.submit(asking()))
        assert len(caplog.messages) == 1
        clock.advance(60)
        failure_of(backend.submit(asking()))
    assert len(caplog.messages) == 2
    assert all(said.startswith(f"avibe, server 0, answers with status {status}:") for said in caplog.messages)
    assert not any("a-secret" in said or str(server.port) in said for said in caplog.messages)


def test_failures_in_a_row_open_the_breaker(server: FakeUpstream, opened: Open) -> None:
    """Then requests are refused at once, and readiness tells; after its time one request tries, and closes it."""
    clock = Clock()
    backend = opened(clock=clock, retries=0, breaker_failures=3, breaker_seconds=60)
    server.script.faults = ["500"] * 3
    for number in range(3):
        failure_of(backend.submit(asking(client=f"client {number % 2}")))
    assert state_of(backend) == "open"
    assert (backend.state().status, backend.state().restart_needed) == (Status.STALLED, False)
    with pytest.raises(NotReady):
        backend.submit(asking())
    assert isinstance(backend.would_refuse("x"), NotReady)
    clock.advance(60)
    until(lambda: state_of(backend) == "half-open")
    assert backend.state().status is Status.READY
    assert backend.submit(asking()).result().text == SAID
    assert state_of(backend) == "closed"


def test_a_trial_closes_the_breaker_with_the_first_part_of_its_answer(server: FakeUpstream, opened: Open) -> None:
    """Others need not wait for its end, which may be minutes away."""
    clock = Clock()
    backend = opened(clock=clock, retries=0, breaker_failures=1, breaker_seconds=60)
    server.script.faults = ["500"]
    failure_of(backend.submit(asking()))
    clock.advance(60)
    until(lambda: state_of(backend) == "half-open")
    server.script.raw, server.script.ending = [event({"choices": [{"delta": {"content": "The"}}]})], "open"
    trial = backend.submit(asking())
    assert next(iter(trial.pieces())).text == "The"
    assert state_of(backend) == "closed"
    server.script.raw = None
    assert backend.submit(asking()).result().text == SAID
    trial.abort()


@pytest.mark.parametrize("fault", ["500", "reset", "nonsense", "half", "stall"])
def test_what_one_client_provokes_closes_the_model_for_nobody(server: FakeUpstream, opened: Open, fault: str) -> None:
    """However often it asks; the failures of others count, each request once, and a good answer forgets them."""
    moved = Clock()
    backend = opened(clock=lambda: moved() + time.monotonic(), retries=2, breaker_failures=3, **limits_for(fault))
    server.script.always = fault
    for number in range(4):
        failure_of(backend.submit(asking(client="poisonous", request_id=str(number))))
    assert state_of(backend) == "closed"
    server.script.always = ""
    assert backend.submit(asking(client="other")).result().text == SAID
    server.script.always = fault
    for client in ("poisonous", "other"):
        moved.advance(TOGETHER)
        failure_of(backend.submit(asking(client=client)))
    moved.advance(TOGETHER)
    assert state_of(backend) == "closed"  # two requests of six attempts
    failure_of(backend.submit(asking(client="other")))
    assert state_of(backend) == "open"


def test_one_client_does_not_keep_a_breaker_open(server: FakeUpstream, opened: Open) -> None:
    """Its failed trial leaves it half open for the next, whose answer closes it."""
    backend = opened(retries=0, breaker_failures=2, breaker_seconds=0.2)
    server.script.faults = ["500"] * 4
    for client in ("a", "b"):
        failure_of(backend.submit(asking(client=client)))
    until(lambda: state_of(backend) == "half-open")
    for _ in range(2):
        until(lambda: not backend.stats().num_requests_running)
        failure_of(backend.submit(asking(client="a")))
    assert state_of(backend) == "half-open"
    until(lambda: not backend.stats().num_requests_running)
    assert backend.submit(asking(client="b")).result().text == SAID
    assert state_of(backend) == "closed"


def test_trials_that_fail_for_two_clients_open_it_again(server: FakeUpstream, opened: Open) -> None:
    """However many failures open it where it is closed."""
    clock = Clock()
    backend = opened(clock=clock, retries=0, breaker_failures=4, breaker_seconds=60)
    server.script.always = "500"
    for client in "abab":
        failure_of(backend.submit(asking(client=client)))
    clock.advance(60)
    until(lambda: state_of(backend) == "half-open")
    for client, state in (("a", "half-open"), ("b", "open")):
        until(lambda: not backend.stats().num_requests_running)
        failure_of(backend.submit(asking(client=client)))
        assert state_of(backend) == state
    assert backend.reports()[0].opened == 2


def test_the_end_of_an_old_trial_lets_no_second_one_through() -> None:
    """It was given up when the breaker opened again, and another is in flight since."""
    clock = Clock()
    replica = Replica("avibe", 0, "http://a/v1", fail_max=1, reset=10, clock=clock)
    requests = []
    for _ in range(2):
        replica.failed(AttemptFailed("probe", UpstreamFailed("Away."), away=True))
        clock.advance(10)
        replica.half_open()
        assert replica.usable
        requests.append(replica.enter())
    assert not replica.usable
    replica.leave(requests[0])
    assert not replica.usable
    replica.leave(requests[1])
    assert replica.usable


def test_a_server_that_cannot_be_reached_needs_no_second_client(server: FakeUpstream, opened: Open) -> None:
    """No request provokes that."""
    backend = opened(retries=0, breaker_failures=3)
    server.do(server.stop_listening)
    for _ in range(3):
        failure_of(backend.submit(asking()))
    assert state_of(backend) == "open"


def test_only_one_request_at_a_time_tries_a_breaker(server: FakeUpstream, opened: Open) -> None:
    """Another may, once that one has ended undecided; the fewest failures that open a breaker do so again."""
    backend = opened(retries=0, breaker_failures=1, breaker_seconds=0.2)
    server.script.faults = ["500"]
    failure_of(backend.submit(asking()))
    until(lambda: state_of(backend) == "half-open")
    server.script.wait = 30
    trial = backend.submit(asking())
    server.wait_for(lambda server: len(server.heard) == 2)
    with pytest.raises(NotReady):
        backend.submit(asking())
    trial.abort()
    server.script.wait, server.script.faults = 0, ["500"]
    until(lambda: not backend.stats().num_requests_running)
    failure_of(backend.submit(asking()))
    assert backend.reports()[0].opened == 2


def test_probes_find_a_server_that_is_away_and_one_that_is_back(server: FakeUpstream, opened: Open) -> None:
    """Without any request of a client, so that readiness recovers behind a load balancer."""
    server.script.always = "500"
    backend = opened(probe_seconds=0.1, breaker_seconds=0.2)
    assert backend.state().status is Status.STALLED
    server.script.always = ""
    until(lambda: backend.state().status is Status.READY)
    assert backend.submit(asking()).result().text == SAID
    server.script.always = "500"
    until(lambda: backend.state().status is Status.STALLED)
    assert len(server.heard) == 1


def test_a_server_that_is_never_to_be_probed_is_not_probed_at_the_start(server: FakeUpstream, opened: Open) -> None:
    """It may have no `/models` at all: the first request tries it, and one probe would have opened its breaker."""
    server.script.always = "500"
    backend = opened(probe_seconds=0)
    server.script.always = ""
    assert (server.probes, state_of(backend), backend.state().status) == (0, "closed", Status.READY)
    assert backend.submit(asking()).result().text == SAID


def test_probes_find_a_server_that_goes_away_again_before_any_request(server: FakeUpstream, opened: Open) -> None:
    """Half open, it would be taken for one that is there: the first failed probe opens it again."""
    clock = Clock()
    backend = opened(clock=clock, probe_seconds=1, breaker_seconds=60, breaker_failures=3, retries=0)
    server.script.faults = ["500"] * 3
    for client in "aab":
        failure_of(backend.submit(asking(client=client)))
    clock.advance(60)
    until(lambda: state_of(backend) == "half-open")
    server.script.always = "500"
    clock.advance(2)
    until(lambda: backend.state().status is Status.STALLED)
    assert (len(server.heard), backend.reports()[0].failures["probe"]) == (3, 1)


def test_probes_leave_a_server_half_open_until_a_request_is_answered(server: FakeUpstream, opened: Open) -> None:
    """They show that it is there, not that it works."""
    backend = opened(probe_seconds=0.1, breaker_seconds=0.2, breaker_failures=1, retries=0)
    server.script.faults = ["500"]
    failure_of(backend.submit(asking()))
    until(lambda: state_of(backend) == "half-open")
    before = server.probes
    until(lambda: server.probes >= before + 3)
    assert state_of(backend) == "half-open"
    assert backend.submit(asking()).result().text == SAID
    assert state_of(backend) == "closed"


def test_another_server_takes_over(server: FakeUpstream, other: FakeUpstream, opened: Open) -> None:
    """From one that does not answer at all, without a pause; its breaker opens, and then it is not asked."""
    backend = opened(urls=("http://127.0.0.1:1/v1", server.url, other.url), retries=2, probe_seconds=60)
    for number in range(9):
        assert backend.submit(asking(f"conversation {number}")).result().text == SAID
    assert state_of(backend) == "open"  # at the start already
    assert backend.state().status is Status.READY
    assert len(server.heard) + len(other.heard) == 9


def test_a_killed_server_loses_no_request_that_had_not_begun(
    server: FakeUpstream, other: FakeUpstream, opened: Open
) -> None:
    """They are asked of the other."""
    backend = opened(urls=(server.url, other.url), breaker_failures=100)
    for one in (server, other):
        one.script.wait = 0.3
    waiting = [backend.submit(asking(f"conversation {number}")) for number in range(20)]
    server.wait_for(lambda server: server.heard)
    server.do(server.kill)
    assert [generation.result().text for generation in waiting] == [SAID] * 20


def test_the_streams_of_a_killed_server_end_with_one_typed_error(
    server: FakeUpstream, other: FakeUpstream, opened: Open
) -> None:
    """At once, whatever the time-outs are; those of the other server go on."""
    backend = opened(urls=(server.url, other.url), breaker_failures=100, idle_timeout=PATIENCE)
    for one in (server, other):
        one.script.gap = 30 * PATIENCE
    generations = [backend.submit(asking(f"conversation {number}")) for number in range(20)]
    streams = [generation.pieces() for generation in generations]
    assert all(next(stream).text for stream in streams)
    lost = backend.reports()[0].outstanding
    assert 0 < lost < 20
    server.do(server.kill)
    until(lambda: sum(generation.done for generation in generations) == lost)
    for generation, stream in zip(generations, streams, strict=True):
        if not generation.done:
            generation.abort()
            continue
        with pytest.raises(UpstreamFailed):
            list(stream)
    until(lambda: not sum(one.outstanding for one in backend.reports()))
    assert [type(failure_of(one)) for one in generations].count(UpstreamFailed) == lost


def test_a_conversation_stays_with_its_server(server: FakeUpstream, other: FakeUpstream, opened: Open) -> None:
    """For the prefix cache there; different ones are spread, and load goes before the preference."""
    backend = opened(urls=(server.url, other.url))
    for _ in range(4):
        backend.submit(asking("the same beginning")).result()
    assert sorted((len(server.heard), len(other.heard))) == [0, 4]
    for number in range(24):
        backend.submit(asking(f"conversation {number}")).result()
    assert min(len(server.heard), len(other.heard)) >= 4
    for one in (server, other):
        one.script.wait = 30
    held = [backend.submit(asking("the same beginning")) for _ in range(20)]
    until(lambda: sum(one.outstanding for one in backend.reports()) == 20)
    assert min(one.outstanding for one in backend.reports()) >= 5
    for one in held:
        one.abort()


def test_the_fewest_outstanding_is_asked_where_the_preferred_is_full(opened: Open) -> None:
    """A server that comes or goes moves no conversation of the others."""
    upstream = opened().upstream
    three = Fleet(replace(upstream, urls=("http://a/v1", "http://b/v1", "http://c/v1")))
    two = Fleet(replace(upstream, urls=("http://a/v1", "http://b/v1")))
    keys = [bytes([number]) * 8 for number in range(64)]
    before, after = ([fleet.choose(key, []).url for key in keys] for fleet in (three, two))  # type: ignore[union-attr]
    assert all(one == other for one, other in zip(before, after, strict=True) if one != "http://c/v1")
    assert set(before) == {"http://a/v1", "http://b/v1", "http://c/v1"}


def test_the_total_time_ends_all_attempts(server: FakeUpstream, opened: Open) -> None:
    """However many are left: none is begun any more."""
    clock = Clock()
    backend = opened(clock=clock, timeout=0.3, retries=10)
    server.script.always = "silent"
    generation = backend.submit(asking())
    until(lambda: server.heard)
    clock.advance(1)
    assert isinstance(failure_of(generation), UpstreamTimedOut)
    assert (backend.reports()[0].requests, backend.reports()[0].failures) == (1, {"timeout": 1})


def test_the_checkpoint_stands_in_for_the_upstream(server: FakeUpstream, opened: Open) -> None:
    """At a refusal, and where every attempt has failed; a client's mistake is not asked twice."""
    own, elsewhere = ScriptedBackend(text="Ours."), opened(role="first", retries=0, breaker_failures=2)
    backend = StandingIn(own, elsewhere)
    assert backend.submit(asking()).result().text == SAID
    server.script.faults = ["500", "500"]
    assert backend.submit(asking(request_id="b")).result().text == "Ours."
    generation = backend.submit(asking(request_id="c", client="another"))
    generation.wait_for_begin()
    assert [piece.text for piece in generation.pieces()] == ["Ours."]
    assert state_of(elsewhere) == "open"
    assert backend.submit(asking(request_id="d")).result().text == "Ours."
    assert backend.state().status is Status.READY


def test_a_client_that_leaves_while_the_checkpoint_is_asked_is_stopped_there(
    server: FakeUpstream, opened: Open
) -> None:
    """Not only here: nobody would read that answer to its end."""
    own, elsewhere = ScriptedBackend(), opened(role="first", retries=0)
    own.hold = True
    asked, left = threading.Event(), threading.Event()

    def ask(request: GenerationRequest) -> Generation:
        asked.set()
        assert left.wait(PATIENCE)
        return own.submit(request)

    elsewhere.stand_in = ask
    server.script.faults = ["500"]
    generation = elsewhere.submit(asking())
    assert asked.wait(PATIENCE)
    generation.abort()
    left.set()
    assert isinstance(failure_of(generation), RequestAborted)
    assert own.aborted == ["r"]


def test_a_checkpoint_that_fails_when_it_is_asked_ends_the_request(
    server: FakeUpstream, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """With the server's failure; nothing of the request stays behind, and the log has the traceback."""
    backend = opened(role="first", retries=0)
    backend.stand_in = lambda request: 1 // 0  # type: ignore[assignment, return-value]
    server.script.faults = ["500"]
    assert isinstance(failure_of(backend.submit(asking(timeout=30))), UpstreamFailed)
    until(lambda: not backend.stats().num_requests_running)
    assert "ZeroDivisionError" in caplog.text


def test_a_request_whose_task_fails_anywhere_ends(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Though nobody has thought of the place, which the log tells."""
    backend = opened(role="first", retries=0)
    backend.stand_in = ScriptedBackend().submit
    monkeypatch.setattr(UpstreamLoop, "in_thread", lambda *_: 1 // 0)
    server.script.faults = ["500"]
    assert isinstance(failure_of(backend.submit(asking(timeout=30))), EngineDead)
    until(lambda: not backend.stats().num_requests_running)
    assert "ZeroDivisionError" in caplog.text


def test_checkpoints_that_take_long_keep_no_host_name_waiting(server: FakeUpstream, other: FakeUpstream) -> None:
    """What is asked of them runs in other threads than those in which names are looked up."""
    loop, left, asked = UpstreamLoop(), threading.Event(), threading.Semaphore(0)
    calm = Upstream("avibe", (server.url,), "m", probe_seconds=0, retries=0, breaker_failures=1000)
    busy = UpstreamBackend(calm, loop, 4096, 1000)
    named = UpstreamBackend(replace(calm, urls=(other.url.replace("127.0.0.1", "localhost"),)), loop, 4096, 1000)

    def ask(request: GenerationRequest) -> Generation:
        asked.release()
        assert left.wait(PATIENCE)
        raise Overloaded("Full.", 1)

    busy.stand_in = ask
    busy.start()
    server.script.always = "500"
    waiting = [busy.submit(asking(request_id=str(number))) for number in range(3 * THREADS)]
    for _ in range(THREADS):
        assert asked.acquire(timeout=PATIENCE)
    named.start()
    assert named.submit(asking()).result().text == SAID
    left.set()
    assert {type(failure_of(one)) for one in waiting} == {UpstreamFailed}
    for one in (busy, named):
        one.stop(0)


LESS: list[tuple[dict[str, object], str]] = [  # of a request, and how the server refuses it, if it is asked
    ({"max_tokens": 100}, ""),  # its context is 64
    ({"text": "x" * 100_000}, ""),
    ({"top_k": 5}, ""),
    ({"rules": AnswerRules("response_format", {"type": "nothing"})}, ""),
    ({}, "too long"),
    ({}, "400"),
    ({}, "413"),
    ({}, "422"),
]


def beside(opened: Open, role: str) -> tuple[ScriptedBackend, StandingIn]:
    """Return a checkpoint, and it with a server that takes less."""
    own = ScriptedBackend(text="Ours.")
    return own, StandingIn(own, opened(role=role, max_model_len=64, kind="openai", takes=KINDS["openai"]))


@pytest.mark.parametrize(("asked", "fault"), LESS)
def test_the_checkpoint_answers_what_the_server_before_it_does_not_take(
    server: FakeUpstream, opened: Open, asked: dict[str, object], fault: str
) -> None:
    """What clients are told is the checkpoint's; its word counts where it is busy, or takes no more."""
    own, backend = beside(opened, "first")
    busy, wrong = Overloaded("Full.", 3), ContextTooLong("Too long.", "prompt", 4096)
    for refusal in (None, busy, wrong):
        own.refusal, server.script.faults = refusal, [fault] if fault else []
        values = {"max_tokens": 50, **asked}
        if refusal is None:
            assert backend.submit(asking(**values)).result().text == "Ours."
            continue
        with pytest.raises(type(refusal)) as refused:
            backend.submit(asking(**values)).result()
        assert (str(refused.value), vars(refused.value)) == (str(refusal), vars(refusal))
    assert len(server.heard) == (3 if fault else 0)


@pytest.mark.parametrize(("asked", "fault"), LESS)
def test_a_busy_checkpoint_stays_so_where_the_server_behind_it_takes_less(
    server: FakeUpstream, opened: Open, asked: dict[str, object], fault: str
) -> None:
    """The client may try again, as with a 400 none does; one that has become free meanwhile answers."""
    own, backend = beside(opened, "spare")
    own.refusal, server.script.faults = Overloaded("Full.", 3), [fault] if fault else []
    with pytest.raises(Overloaded) as refused:
        backend.submit(asking(**{"max_tokens": 50, **asked})).result()
    assert refused.value.retry_after == 3
    own.refusal = None
    assert backend.submit(asking(**{"max_tokens": 50, **asked})).result().text == "Ours."


def test_a_request_of_a_batch_that_the_server_does_not_take_waits_for_the_checkpoint(
    server: FakeUpstream, opened: Open
) -> None:
    """As one that the checkpoint alone answers for."""
    own, backend = beside(opened, "first")
    taken = backend.submit_when_free(asking(max_tokens=100), True, lambda: None)
    assert taken is not None
    assert taken.result().text == "Ours."
    assert not server.heard


def test_what_the_checkpoint_refuses_is_asked_of_no_server(server: FakeUpstream, opened: Open) -> None:
    """It would be the client's mistake while the checkpoint is free, and none while it is not."""
    own, backend = beside(opened, "spare")
    own.refusal = ContextTooLong("Too long.", "prompt", 4096)
    with pytest.raises(ContextTooLong):
        backend.submit(asking())
    assert not server.heard


def test_the_upstream_stands_in_for_the_checkpoint(server: FakeUpstream, opened: Open) -> None:
    """Where that is at capacity or not ready; the first's word counts where both refuse."""
    own, elsewhere = ScriptedBackend(text="Ours."), opened(role="spare")
    backend = StandingIn(own, elsewhere)
    assert backend.submit(asking()).result().text == "Ours."
    own.refusal = Overloaded("Full.", 3)
    assert backend.submit(asking()).result().text == SAID
    assert backend.would_refuse("x") is None
    elsewhere.drain()
    with pytest.raises(Overloaded):
        backend.submit(asking())
