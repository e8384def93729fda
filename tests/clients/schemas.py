"""Public suites of JSON schemas against the service: what is refused, and whether the answers validate.

    python -m tests.clients.schemas --suite FOLDER --bench FOLDER [--sample 600] [--seed 1] [--walks 4] [--tokenizer F]

--suite: `tests/draft2020-12` of github.com/json-schema-org/JSON-Schema-Test-Suite; --bench: `data` of
github.com/guidance-ai/jsonschemabench, of which a sample is taken. Neither is part of this repository. Every schema is
sent to /v1/chat/completions of the whole application, whose model is a random walk through the tokens that the grammar
allows, over a real vocabulary (--tokenizer: a `tokenizer.json`, by default that of the demo's text model). An answer
that ends with `stop` is checked by jsonschema-rs, with formats as rules, and by jsonschema, without.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs
from jsonschema.validators import validator_for
from tokenizers import Tokenizer

from app_production import create_app
from config import load_settings
from engine.errors import ServiceError
from engine.text.detokenizer import TokenTable
from engine.text.grammar import index_of
from engine.text.special_tokens import SpecialTokens
from engine.types import Vocabulary
from models import ModelSet
from tests.fakes import FakeMachine, ScriptedBackend
from tests.walks import Walker

ROOT = Path(__file__).parents[2]
ENDS = ("<|im_end|>", "<|endoftext|>")
MAX_TOKENS = 400
SLOW_SECONDS = 3.0
PLACED = re.compile(r': \S+ at "/')
LIMIT = re.compile(r"(too long|too large|nested too deeply)\b.*Maximum")
Named = tuple[str, dict[str, Any]]


class WalkingBackend(ScriptedBackend):
    """A model that takes random tokens among the allowed ones. walked: seconds that it took for that."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__("avibe")
        self.tokens = vocabulary
        self.walked = 0.0
        self._walker = Walker(vocabulary)

    def finish(self, request_id: str) -> None:
        number, request = next(
            (number, one) for number, one in enumerate(self.submitted) if one.request_id == request_id
        )
        started = time.perf_counter()
        try:
            text, self.finish_reason = self._walker.walk(request.sampling.token_mask, number, MAX_TOKENS)
        except ServiceError as error:
            self.fail(request_id, error)
        else:
            self.text = text.decode("utf-8", "replace")
            super().finish(request_id)
        finally:
            self.walked += time.perf_counter() - started


def vocabulary_of(file: Path) -> Vocabulary:
    """Return the vocabulary of a tokenizer, as a loaded model has it."""
    tokenizer = Tokenizer.from_file(str(file))
    ends = frozenset(number for end in ENDS if (number := tokenizer.token_to_id(end)) is not None)
    table = TokenTable.of(tokenizer).literal
    vocabulary = Vocabulary(tuple(table.pieces), ends, SpecialTokens(tokenizer).encode_plain)
    return Vocabulary(vocabulary.tokens, ends, vocabulary.encode, index_of(vocabulary))


@dataclass
class Report:
    """What became of the schemas of one suite."""

    name: str
    count: int = 0
    accepted: int = 0
    ended: int = 0
    slowest: float = 0.0
    faults: dict[str, list[str]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)

    def fault(self, kind: str, name: str, detail: str) -> None:
        """Note what must not happen."""
        self.faults.setdefault(kind, []).append(f"{name}: {detail[:300]}")

    def lines(self) -> Iterator[str]:
        """Yield the report, line by line."""
        share = self.accepted / max(1, self.count)
        yield f"{self.name}: {self.count} schemas, {self.accepted} accepted ({share:.1%}), {self.ended} with an answer"
        yield f"  slowest: {self.slowest:.2f} s"
        for kind in ("invalid answers", "without keyword and place", "500 and above", "failed answers", "over 3 s"):
            found = self.faults.get(kind, [])
            yield f"  {kind}: {len(found)}"
            yield from (f"    {one}" for one in found[:10])
        yield from (f"  refused {number} times: {sentence}" for sentence, number in self.refusals.most_common())


class Service:
    """The application over a walking model."""

    def __init__(self, tokenizer: Path, walks: int) -> None:
        self._walks = walks
        self._model = WalkingBackend(vocabulary_of(tokenizer))
        models = ModelSet({"avibe": self._model, "avision": ScriptedBackend("avision")})
        settings = load_settings({"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "LOG_LEVEL": "ERROR"}, None)
        self._client = create_app(settings, models, FakeMachine()).test_client()

    def try_schema(self, name: str, schema: dict[str, Any], report: Report) -> None:
        """Ask for answers of a schema, and note what comes back."""
        self._model.submitted.clear()
        self._model.walked, started = 0.0, time.perf_counter()
        wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
        body = {
            "model": "avibe",
            "messages": [{"role": "user", "content": "?"}],
            "n": self._walks,
            "response_format": wanted,
        }
        response = self._client.post("/v1/chat/completions", json=body)
        seconds = time.perf_counter() - started - self._model.walked
        report.count += 1
        report.slowest = max(report.slowest, seconds)
        if seconds > SLOW_SECONDS:
            report.fault("over 3 s", name, f"{seconds:.1f} s")
        answer = response.get_json()
        if response.status_code == 200:
            report.accepted += 1
            self._check(name, schema, answer["choices"], report)
        else:
            self._refused(name, response.status_code, answer["error"]["message"], report)

    @staticmethod
    def _refused(name: str, status: int, message: str, report: Report) -> None:
        if status >= 500:
            report.fault("500 and above", name, f"{status} {message}")
        elif message.endswith("is too complex."):
            report.fault("failed answers", name, message)
        elif not PLACED.search(message) and not LIMIT.search(message):
            report.fault("without keyword and place", name, message)
        report.refusals[re.sub(r'"[^"]*"', '"..."', message.partition(".schema ")[2] or message)] += 1

    @staticmethod
    def _check(name: str, schema: dict[str, Any], choices: list[dict[str, Any]], report: Report) -> None:
        ended = [choice["message"]["content"] for choice in choices if choice["finish_reason"] == "stop"]
        report.ended += bool(ended)
        checks = list(_checks(schema))
        for text in ended:
            try:
                value = json.loads(text)
            except ValueError:
                report.fault("invalid answers", name, f"no JSON: {text}")
                continue
            wrong = [library for library, check in checks if not check(value)]
            if wrong:
                report.fault("invalid answers", name, f"{', '.join(wrong)}: {text}")


def _checks(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what validates values of a schema; a library that cannot read the schema is left out."""
    try:
        yield "jsonschema-rs", jsonschema_rs.validator_for(schema, validate_formats=True).is_valid
    except Exception as error:
        print(f"jsonschema-rs: {str(error)[:80]}", file=sys.stderr)
    try:
        validator = validator_for(schema, default=jsonschema.Draft202012Validator)
        validator.check_schema(schema)
        list(validator(schema).iter_errors({}))
        yield "jsonschema", validator(schema).is_valid
    except Exception as error:
        print(f"jsonschema: {str(error)[:80]}", file=sys.stderr)


def suite(folder: Path) -> Iterator[Named]:
    """Yield the schemas of JSON-Schema-Test-Suite. A schema that is true or false is sent within an object."""
    for file in sorted(folder.rglob("*.json")):
        for group in json.loads(file.read_text(encoding="utf-8")):
            schema = group["schema"]
            yield f"{file.stem}: {group['description']}", schema if isinstance(schema, dict) else {"allOf": [schema]}


def bench(folder: Path, sample: int, seed: int) -> Iterator[Named]:
    """Yield a sample of JSONSchemaBench."""
    files = sorted(folder.rglob("*.json"))
    for file in random.Random(seed).sample(files, min(sample, len(files))):
        yield f"{file.parent.name}/{file.name}", json.loads(file.read_text(encoding="utf-8"))


def main() -> None:
    """Run the suites that are named; exit with 1 if something happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--sample", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--walks", type=int, default=4, help="answers to each schema, at most 8")
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "demo/avibe/tokenizer.json")
    asked = parser.parse_args()
    service, reports = Service(asked.tokenizer, asked.walks), []
    wanted: list[tuple[str, Iterable[Named]]] = []
    if asked.suite:
        wanted.append(("JSON-Schema-Test-Suite", suite(asked.suite)))
    if asked.bench:
        wanted.append(("JSONSchemaBench", bench(asked.bench, asked.sample, asked.seed)))
    for title, schemas in wanted:
        report = Report(title)
        for name, schema in schemas:
            service.try_schema(name, schema, report)
        print("\n".join(report.lines()), flush=True)
        reports.append(report)
    sys.exit(any(report.faults for report in reports))


if __name__ == "__main__":
    main()
