"""What `benchmarks.upstream_servers` makes of answers, its table and its verdicts; at length, a copy of the service."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import upstream_servers
from benchmarks.harness.servers import Server
from benchmarks.upstream_servers import CHECKS, STARTED, judge, main, table, try_server
from benchmarks.upstream_trial import answers, client, faults, forms, served
from benchmarks.upstream_trial.process import Process
from benchmarks.upstream_trial.served import Served
from benchmarks.upstream_trial.trial import (
    BROKEN,
    CUT,
    REFUSED,
    UNSEEN,
    YES,
    Check,
    Refused,
    Trial,
    Wrong,
    tried,
    worded,
)
from settings.upstream_kinds import CAPABILITIES, KINDS
from settings.upstreams import read_upstreams
from tests.benchmarks.harness.scripted_server import scripted, stream

NOTHING = Server("nothing", (sys.executable, "-c", "raise SystemExit('no model here')"), "/")
FILES = Server("files", (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}"), "/")


def trial(front: str = "http://127.0.0.1:1", kind: str = "vllm") -> Trial:
    """Return a trial of a server that is never started."""
    return Trial(Served(NOTHING, "m", kind), Process(NOTHING, Path(os.devnull)), front)


def raising(error: Exception) -> Callable[[Trial], str]:
    """Return a check that ends so."""

    def run(_: Trial) -> str:
        raise error

    return run


def seed(run: Callable[[Trial], str]) -> Check:
    """Return a check that needs seeds."""
    return Check("a seed", run, "seed", "seed")


def good(_: Trial) -> str:
    return YES


@pytest.mark.parametrize(
    ("run", "kind", "word"),
    [
        (good, "vllm", YES),
        (raising(Refused("seed")), "gemini", REFUSED),
        (raising(Refused("seed")), "vllm", "NO: 400 about seed"),
        (raising(Refused("stop")), "gemini", "NO: 400 about stop"),
        (good, "gemini", "NO: answered, though seed is not passed on"),
        (raising(Wrong("another | text")), "vllm", "NO: another / text"),
        (raising(ConnectionResetError("gone")), "vllm", "NO: ConnectionResetError: gone"),
        (raising(KeyError("choices")), "vllm", "NO: KeyError: 'choices'"),
    ],
)
def test_a_word_follows_from_what_the_kind_takes(run: Callable[[Trial], str], kind: str, word: str) -> None:
    """A refusal is right for what is not passed on, and for nothing else; an answer is wrong there."""
    assert tried(seed(run), trial(kind=kind)) == word


def test_only_no_misses_the_target() -> None:
    """Of one server, by the names of its checks."""
    found = {"a": {"x": YES, "y": REFUSED, "z": UNSEEN}, "b": {"x": YES, "y": "NO: a hole"}}
    assert [(one.word, one.found) for one in judge(found)] == [("met", "3 checks"), ("missed", "y")]


def test_every_check_of_every_server_is_in_the_table() -> None:
    """Those behind a start that failed were not tried."""
    shown = table({"a": {STARTED: YES} | {check.name: YES for check in CHECKS}, "b": {STARTED: "NO: no"}})
    assert shown.count("| yes | not tried |") == len(CHECKS) == len({check.name for check in CHECKS})
    assert f"| {STARTED} | yes | NO: no |" in shown


def test_a_server_that_does_not_start_is_wrong(tmp_path: Path) -> None:
    """In one cell; what it said is in its log."""
    (word,) = try_server(Served(NOTHING, "m", "vllm"), tmp_path, tmp_path).values()
    assert word.startswith("NO: The server did not become ready")
    assert "no model here" in (tmp_path / "nothing.log").read_text()


def test_a_process_comes_back_at_its_port(tmp_path: Path) -> None:
    """After it was killed, when nothing answers."""
    process = Process(FILES, tmp_path / "log")
    with closing(SimpleNamespace(close=process.stop)):
        process.start()
        assert process.cpu_seconds() > 0
        process.kill()
        with pytest.raises(OSError, match="refused"):
            client.get(process.address, "/")
        process.start()
        assert client.get(process.address, "/README.md").status == 200


def chat(text: str, reason: str = "stop", tokens: int = 4, **message: Any) -> bytes:
    """Return the body of a chat's answer."""
    choice = {"message": {"content": text, **message}, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": tokens}}).encode()


def called(name: str, arguments: str) -> bytes:
    """Return the body of an answer that is one call."""
    return chat("", "tool_calls", tool_calls=[{"function": {"name": name, "arguments": arguments}}])


FITS = '{"colour": "red", "sold": true}'


@pytest.mark.parametrize(
    ("run", "right", "wrong"),
    [
        (answers.cut, chat("a b c d", "length"), chat("a b c d")),
        (answers.cut, chat("a b c d", "length"), chat("a b c d e", "length", 5)),
        (forms.shaped, chat(FITS), chat('{"colour": "green", "sold": true}')),
        (forms.shaped, chat(FITS), chat("nonsense")),
        (forms.called, called("look", FITS), called("see", FITS)),
        (forms.called, called("look", FITS), called("look", "")),
        (forms.called, called("look", FITS), chat("no call")),
        (answers.own, b'{"data": {"text": "A bicycle"}}', b'{"data": {"text": " "}}'),
    ],
)
def test_a_check_tells_a_wrong_answer(run: Callable[[Trial], str], right: bytes, wrong: bytes) -> None:
    """From a right one."""
    words = []
    for body in (right, wrong):
        with scripted(200, body) as front:
            words.append(tried(Check("it", run), trial(front.address)))
    assert words[0] == YES
    assert words[1].startswith("NO: ")


def test_a_form_that_the_server_breaks_is_a_typed_502() -> None:
    """A server that keeps to it by itself, or refuses the request, makes the answer wrong; so does another error."""
    failed = b'{"error": {"code": "upstream_error"}}'
    words = []
    cases = ((502, "nonsense", 200), (502, "", 500), (502, FITS, 200), (502, "", 400), (503, "nonsense", 200))
    for status, text, alone in cases:
        with scripted(status, failed) as front, scripted(alone, chat(text)) as server:
            one = replace(trial(front.address), process=cast(Process, SimpleNamespace(address=server.address)))
            words.append(tried(Check("it", forms.shaped), one))
    kept, refused = (f"NO: status 502, where the server itself keeps to the form ({alone})" for alone in (200, 400))
    assert words == [BROKEN, BROKEN, kept, refused, "NO: status 503, upstream_error"]


def test_a_form_that_is_never_ended_is_right_where_the_servers_own_is_not_either() -> None:
    """What is cut by the service alone is wrong, and so is another form that ends by itself."""
    words = []
    for reason, own in (("length", "length"), ("length", "stop"), ("stop", "length")):
        with scripted(200, chat(" ", reason)) as front, scripted(200, chat(" ", own)) as server:
            one = replace(trial(front.address), process=cast(Process, SimpleNamespace(address=server.address)))
            words.append(tried(Check("it", forms.shaped), one))
    assert words == [CUT, "NO: cut 5 times, where the server's own answers are not", "NO: ' ', stop"]


def test_the_prompt_is_one_that_is_answered_with_words() -> None:
    """A server that breaks every character cannot be tried."""
    for text, found in (("meda meda babile lu", True), ("meda \ufffd babile lu meda", False), ("ab ", False)):
        with scripted(200, chat(text)) as server:
            one = replace(trial(), process=cast(Process, SimpleNamespace(address=server.address)))
            if found:
                assert worded(one) == one
            else:
                with pytest.raises(Wrong, match="prompts"):
                    worded(one)


def test_a_checkpoint_without_tools_gets_the_template_of_the_demo(tmp_path: Path) -> None:
    """Beside the same files; one that knows them stays as it is."""
    (made := tmp_path / "text").mkdir()
    (made / served.TEMPLATE).write_text("{{ messages }}")
    (made / "config.json").write_text("{}")
    found = served.with_tools(made, tmp_path / "other")
    assert (found / "config.json").read_text() == "{}"
    assert "tools" in (found / served.TEMPLATE).read_text()
    assert (made / served.TEMPLATE).read_text() == "{{ messages }}"
    assert served.with_tools(found, tmp_path / "third") == found


def test_the_same_text_for_every_seed_is_wrong() -> None:
    """The seed was dropped, or the temperature was."""
    with scripted(200, chat("a")) as front:
        assert tried(seed(answers.seeded), trial(front.address)) == "NO: the same text for other seeds"


def test_what_is_not_refused_by_name_is_wrong() -> None:
    """An answer is, and a 400 about something else."""
    about = b'{"error": {"code": "validation_error", "param": "model"}}'
    with scripted(200, chat("a")) as answered, scripted(400, about) as other:
        words = [tried(Check("it", answers.named), trial(front.address)) for front in (answered, other)]
    assert words == ["NO: return_token_ids was answered", "NO: return_token_ids: 400 about model"]


def test_a_prompt_that_is_too_long_needs_its_own_code() -> None:
    """Clients look for it."""
    plain = b'{"error": {"code": "validation_error", "param": null}}'
    with scripted(400, plain) as front:
        assert tried(Check("it", answers.too_long), trial(front.address)).startswith("NO: status 400, validation_error")


def test_a_stream_is_read_with_its_times() -> None:
    """Each event, and the end; what is no stream has its body."""
    with scripted(200, stream()) as server, client.stream(server.address, "/v1/chat/completions", {}) as read:
        events = list(read)
    assert events[-1].data is None
    assert [event.at for event in events] == sorted(event.at for event in events)
    with scripted(503, b'{"error": {"code": "not_ready"}}') as server:
        with client.stream(server.address, "/v1/chat/completions", {}) as read:
            assert (read.status, read.body["error"]["code"]) == (503, "not_ready")


def test_a_server_that_works_on_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that always says that it computes, and one that never does: it is too quick to be judged."""
    monkeypatch.setattr(faults, "SETTLED", 0.1)
    with scripted(200, stream()) as front:
        own = trial(front.address)
        busy = Trial(replace(own.served, running=lambda _: 1.0), own.process, own.front)
        idle = Trial(replace(own.served, running=lambda _: 0.0), own.process, own.front)
        assert tried(Check("it", faults.left), busy) == "NO: it works on after the end"
        assert tried(Check("it", faults.left), idle) == UNSEEN


def test_the_service_reads_what_it_is_told_of_each_server(tmp_path: Path) -> None:
    """Each table is one of UPSTREAMS_FILE; every kind that is tried is one there is."""
    text = tmp_path / "text"
    tried_ones = [
        served.vllm(Path("vllm"), text),
        served.transformers_serve(Path("transformers"), text),
        served.llama_cpp(Path("python"), text),
        served.copy(text),
        served.copy(None),
    ]
    for one in tried_ones:
        (file := tmp_path / "upstreams.toml").write_text(one.table("http://127.0.0.1:1"))
        (upstream,), mistakes = read_upstreams(file)[0].values(), read_upstreams(file)[1]
        assert not mistakes
        assert upstream.takes == one.takes
    assert {one.kind for one in tried_ones} <= KINDS.keys()
    assert {check.needs for check in CHECKS} - {""} <= CAPABILITIES.keys()


@pytest.mark.parametrize("options", [[], ["--vllm", "vllm"], ["--copy", "--llama", "python"]])
def test_a_server_and_its_checkpoint_are_named(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing is said; a copy alone has the demo model."""
    with pytest.raises(SystemExit):
        main(options)
    assert "missing" in capsys.readouterr().err or not options


def test_what_is_wrong_fails_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is in the results all the same."""
    monkeypatch.setattr(upstream_servers, "try_server", lambda *_: {STARTED: YES, CHECKS[0].name: "NO: a hole"})
    assert main(["--copy", "--results", str(tmp_path)]) == 1
    assert "NO: a hole" in (tmp_path / "upstream_servers.md").read_text()
    written = json.loads((tmp_path / "upstream_servers.json").read_text())
    assert written["checks"]["a copy of the service"][CHECKS[0].name] == "NO: a hole"


@pytest.mark.slow
def test_a_copy_of_the_service_passes_every_check(tmp_path: Path) -> None:
    """With the demo model, killed and started again."""
    assert main(["--copy", "--results", str(tmp_path), "--logs", str(tmp_path / "logs")]) == 0
    (words,) = json.loads((tmp_path / "upstream_servers.json").read_text())["checks"].values()
    assert words.keys() == {STARTED, *(check.name for check in CHECKS)}
