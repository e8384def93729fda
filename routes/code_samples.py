"""The examples of a route as programs: for the shell with curl, and for Python."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge.route_table import JSON, ROUTES, Need
from routes.examples import EXAMPLES, HTTPX, Example
from routes.route_bodies import TEXT, RouteBodies
from routes.sections import section_of
from routes.site_address import ADDRESS

OF_THE_PAGE = "/api/v1/streams/"  # reads again and stops what the page began; no program has such an id
KEY = "YOUR_KEY"  # stands for a client's, where one is asked for
HEADER = f'"Authorization": "Bearer {KEY}"'
CURL, CALL = re.compile(r"\bcurl (-sN?)"), re.compile(r'(httpx\.\w+\((?:"[A-Z]+", )?"[^"]*")')
WIDTH = 88  # characters of a line, where a value can be broken


@dataclass(frozen=True, slots=True)
class CodeSample:
    """One example. key: of its name in the locales; body: what it sends as JSON, if it does."""

    key: str
    body: Mapping[str, Any] | None
    curl: str
    python: str

    def with_key(self) -> CodeSample:
        """Return the example for a client that has a key."""
        python = CALL.sub(r"\1, headers=headers", self.python.replace('api_key="none"', f'api_key="{KEY}"'))
        python = python.replace(HTTPX, f"{HTTPX}headers = {{{HEADER}}}\n")
        return replace(self, curl=CURL.sub(rf"curl \1 -H 'Authorization: Bearer {KEY}'", self.curl), python=python)


def code_samples(name: str, route: RouteBodies, keys: bool = False) -> list[CodeSample]:
    """Return the examples of a route by its name in the table; none where a browser is meant to call it.

    keys: whether the service asks its clients for keys.
    """
    method, path = name.split()
    examples = EXAMPLES.get(name, ())
    own = section_of(path).key == "pages" or path.startswith(OF_THE_PAGE)
    for_programs = not own and {JSON, TEXT} & route.responses.keys()
    if not examples and not ROUTES[name].bodies and for_programs:
        shown = "json()" if JSON in route.responses else "text"
        examples = (Example("text", f'{HTTPX}print(httpx.{method.lower()}("ADDRESS{path}").{shown})'),)
    samples = [CodeSample(one.key, one.body, _curl(one, method, path), _python(one)) for one in examples]
    return [one.with_key() for one in samples] if keys and ROUTES[name].need is Need.CLIENT else samples


def _curl(example: Example, method: str, path: str) -> str:
    if example.curl is not None:
        return example.curl.replace("ADDRESS", ADDRESS)
    if example.body is None:
        return f"curl -s {'' if method == 'GET' else f'-X {method} '}{ADDRESS}{path}"
    flags = "-sN" if example.body.get("stream") or "prompts" in example.body else "-s"
    sent = source(example.body, python=False)
    return f"curl {flags} {ADDRESS}{path} -H 'Content-Type: {JSON}' \\\n  -d '{sent}'"


def _python(example: Example) -> str:
    body = example.body or {}
    fields = "".join(f"    {name}={source(value, indent=4)},\n" for name, value in body.items())
    text = example.python.replace("FIELDS", f"\n{fields}").replace("BODY", source(body))
    return text.replace("ADDRESS", ADDRESS)


def source(value: Any, *, python: bool = True, indent: int = 0) -> str:
    """Return a JSON value as source text, of Python or of JSON: on one line where it fits, else an item a line."""
    line = _line(value, python)
    if indent + len(line) <= WIDTH or not isinstance(value, dict | list):
        return line
    within = indent + 4
    items = [
        source(one, python=python, indent=within) for one in (value.values() if isinstance(value, dict) else value)
    ]
    if isinstance(value, dict):
        items = [f"{_line(name, python)}: {item}" for name, item in zip(value, items, strict=True)]
    first, last = line[0], line[-1]
    return f"{first}\n" + ",\n".join(" " * within + item for item in items) + f"\n{' ' * indent}{last}"


def _line(value: Any, python: bool) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_line(name, python)}: {_line(one, python)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_line(one, python) for one in value) + "]"
    return str(value) if python and isinstance(value, bool) else json.dumps(value, ensure_ascii=False)
