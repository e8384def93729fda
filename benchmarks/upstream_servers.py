"""Put the service in front of real servers, and try through it what its users rely on.

    python -m benchmarks.upstream_servers [--text FOLDER] [--vllm PROGRAM] [--transformers PROGRAM] [--llama PYTHON]
        [--copy] [--results FOLDER] [--logs FOLDER]

Each server is started with the checkpoint of --text, and the service in front of it with the server's kind. Answers,
fields, protocols, errors, a client that leaves, a server that is killed and comes back: each is a check whose cell says
`yes`, `refused, as documented`, `502, as documented`, `cut at max_tokens`, `cannot be seen` or `NO` and why. --copy is
a second copy of the service, which has the demo model where --text is missing. Exits with 1 if anything is NO.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.record import Facts
from benchmarks.harness.servers import running
from benchmarks.harness.targets import Verdict, exit_status, judged
from benchmarks.upstream_trial import answers, faults, served
from benchmarks.upstream_trial.process import Process
from benchmarks.upstream_trial.served import Served
from benchmarks.upstream_trial.trial import NO, YES, Check, Trial, Wrong, no, tried, worded

PACKAGES = ("aiohttp", "flask", "gunicorn")
STARTED = "it starts, and the service in front of it"
CHECKS = (*answers.CHECKS, *faults.CHECKS)

Words = dict[str, str]  # by check


def main(argv: Sequence[str] | None = None) -> int:
    """Try every server, write the results after each and return 1 if anything is wrong."""
    options = _options(argv)
    facts = record.facts(PACKAGES)
    found: dict[str, Words] = {}
    with tempfile.TemporaryDirectory() as temporary:
        logs = options.logs or Path(temporary)
        logs.mkdir(parents=True, exist_ok=True)
        if options.text:
            options.text = served.with_tools(options.text, Path(temporary) / "checkpoint")
        for one in chosen(options):
            found[one.server.name] = try_server(one, logs, Path(temporary))
            _write(facts, found, options.results)
    print("\n\n".join(_tables(found)))
    return exit_status(verdict.word for verdict in judge(found))


def _tables(found: Mapping[str, Words]) -> list[str]:
    return [table(found), *map(str, judge(found))]


def _write(facts: Facts, found: Mapping[str, Words], folder: Path | None) -> None:
    if folder:
        title = "Real servers behind the service"
        record.write("upstream_servers", facts, {"checks": found}, title, _tables(found), folder)


def judge(found: Mapping[str, Words]) -> list[Verdict]:
    """Return a verdict on each server. found: words by server and check."""
    wrong = {server: [name for name, word in words.items() if word.startswith(NO)] for server, words in found.items()}
    return [
        judged(f"nothing is wrong with {server}", not names, "; ".join(names) or f"{len(found[server])} checks")
        for server, names in wrong.items()
    ]


def table(found: Mapping[str, Words]) -> str:
    """Return the table of checks by server."""
    names = [STARTED, *(check.name for check in CHECKS)]
    rows = [[name, *(words.get(name, "not tried") for words in found.values())] for name in names]
    return record.table(["", *found], rows)


def try_server(one: Served, logs: Path, folder: Path) -> Words:
    """Return the word for each check. logs: folder for both servers' output; folder: for what they write."""
    name = one.server.name.replace(" ", "-")
    process = Process(served.with_state(one.server, folder / name), logs / f"{name}.log")
    try:
        process.start()
        front = served.in_front(one, process.address, folder / f"{name}-front")
        with running(front, logs / f"{name}-front.log") as address:
            trial = worded(Trial(one, process, address))
            return {STARTED: YES} | {check.name: _shown(one, check, trial) for check in CHECKS}
    except (RuntimeError, OSError, Wrong) as error:
        return {STARTED: no(str(error))}
    finally:
        process.stop()


def _shown(one: Served, check: Check, trial: Trial) -> str:
    word = tried(check, trial)
    print(f"{one.server.name}: {check.name}: {word}", file=sys.stderr, flush=True)
    return word


def chosen(options: argparse.Namespace) -> list[Served]:
    """Return the servers that are named on the command line."""
    found = []
    if options.vllm:
        found.append(served.vllm(options.vllm, options.text))
    if options.transformers:
        found.append(served.transformers_serve(options.transformers, options.text))
    if options.llama:
        found.append(served.llama_cpp(options.llama, options.text))
    if options.copy:
        found.append(served.copy(options.text))
    return found


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, help="checkpoint of `make_model`, which --copy alone can do without")
    parser.add_argument("--vllm", type=Path, help="the program `vllm` of an installation of vLLM")
    parser.add_argument("--transformers", type=Path, help="the program `transformers` of one with [serving]")
    parser.add_argument("--llama", type=Path, help="an interpreter with xllamacpp and gguf")
    parser.add_argument("--copy", action="store_true", help="a second copy of the service")
    parser.add_argument("--results", type=Path, help="folder for upstream_servers.json and upstream_servers.md")
    parser.add_argument("--logs", type=Path, help="folder for what the servers say; else it is lost")
    options = parser.parse_args(argv)
    others = options.vllm or options.transformers or options.llama
    if others and not options.text:
        parser.error("--text is missing")
    if not others and not options.copy:
        parser.error("no server is named")
    return options


if __name__ == "__main__":
    sys.exit(main())
