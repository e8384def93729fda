"""What is said of an address that no route has: a client whose base URL is wrong is told which address it may mean.

No part of the address that was asked for is repeated; what is named are routes.
"""

from __future__ import annotations

from typing import NamedTuple

from flask import Request
from werkzeug.routing import MapAdapter

from edge.errors import NotFound
from edge.failure_shapes import FailureShape, shape_of
from edge.route_table import JSON, ROUTES, rule_at

NOTHING = "There is nothing at this address."
BASES = ("/v1", "/api/v1")
PREFIXES = {"api", "v1", "v1beta", "openai", "anthropic"}  # what base URLs begin with
NAMING = {"engines", "deployments"}  # followed by a model, in the addresses of Azure and of older clients
OLLAMA = {f"/api/{name}" for name in ("chat", "generate", "tags", "show", "ps", "version", "embed", "embeddings")}
MAX_SEGMENTS = 12
RESPONSES = "/v1/responses"
COMPACT = f"{RESPONSES}/compact"
UNMISTAKABLE = {"/v1/chat/completions", "/v1/messages/count_tokens", f"{RESPONSES}/input_tokens"}
# What OpenAI's API has below RESPONSES and this service does not.
NOTES = {
    "compact": "Nothing is compacted here; send less of the conversation.",
    "cancel": "Nothing runs in the background here; close the connection to end an answer.",
}
CHECK = "check your client's base URL, which should"


class Meant(NamedTuple):
    """What an address without a route is meant for: a route, without what varies of it.

    base: what belongs in front of `kept`, the end of the address, in place of `dropped`.
    """

    route: str
    base: str
    dropped: list[str]
    kept: list[str]


def is_none(request: Request, status: int | None) -> bool:
    """Return whether a request leads to no route. status: of the framework's error.

    A part of OpenAI's API that is missing here can have an address that reads as one with an id.
    """
    return (status == 404 and request.url_rule is None) or (status == 405 and request.path.rstrip("/") == COMPACT)


def not_found(path: str, urls: MapAdapter | None) -> NotFound:
    """Return the error for an address without a route. urls: the routes, None where the host is no name."""
    if path.startswith(f"{RESPONSES}/") and (note := NOTES.get(path.rstrip("/").rpartition("/")[2])) is not None:
        return NotFound(f"{NOTHING} {note}")
    if path.rstrip("/") in OLLAMA:
        return NotFound(f"{NOTHING} This service speaks OpenAI's protocol under /v1, and not Ollama's.")
    if (meant := _meant(path, urls)) is not None:
        return NotFound(f"{NOTHING} The service has {meant.route}: {_check(path, meant)}.")
    if path == "/v1" or path.startswith("/v1/"):
        return NotFound(f"{NOTHING} This service generates text, also about images; under /v1 it has {_below_v1()}.")
    return NotFound(NOTHING)


def shape_for(request: Request, urls: MapAdapter | None) -> FailureShape:
    """Return the shape of that error: JSON for a client that asks for it, also outside of /api and /v1."""
    shape = shape_of(request.path)
    meant = _meant(request.path, urls)
    if shape is FailureShape.OPENAI and meant is not None and shape_of(meant.route) is FailureShape.ANTHROPIC:
        return FailureShape.ANTHROPIC
    if shape is not FailureShape.PAGE:
        return shape
    accepted = {kind for kind, quality in request.accept_mimetypes if quality > 0}
    if "text/html" in accepted:
        return FailureShape.PAGE
    if meant is not None:
        return shape_of(meant.route)
    return FailureShape.API if JSON in accepted or request.mimetype == JSON else FailureShape.PAGE


def _check(path: str, meant: Meant) -> str:
    """Return what a client is to check, by what its path has in front of what it adds to its base URL."""
    version = meant.dropped[-1:] == ["v1"]
    base = meant.dropped[:-1] if version else meant.dropped
    whole = ["v1", *meant.kept]
    if "//" in path and meant.dropped == _parts(meant.base):
        return f"{CHECK} not end with a slash"
    if shape_of(meant.route) is FailureShape.API:
        return "check the address"
    if base[-len(whole) :] == whole:
        return f"{CHECK} end before {meant.route if version else meant.route.removeprefix('/v1')}"
    if not version:
        return f"{CHECK} end in /v1"
    return f"{CHECK} not add /v1 a second time" if base[-1:] == ["v1"] else f"{CHECK} have nothing in front of /v1"


def _meant(path: str, urls: MapAdapter | None) -> Meant | None:
    """Return what a path is meant for, if only its base is wrong."""
    segments = _parts(path)
    if urls is None or len(segments) > MAX_SEGMENTS:
        return None
    for start in range(len(segments)):
        dropped, kept = segments[:start], segments[start:]
        for base in BASES if _may_precede(dropped, kept) else ():
            if (rule := _rule(f"{base}/{'/'.join(kept)}", urls)) is not None:
                return Meant(rule.partition("/<")[0], base, dropped, kept)
    return None


def _may_precede(dropped: list[str], kept: list[str]) -> bool:
    """Return whether a base URL may have added these parts of an address in front of the others.

    Such are known prefixes; another server's, such as /proxy/v1; one that names a model; the whole address as the base
    URL of a client that adds it; and any in front of an ending that nothing else has.
    """
    if PREFIXES.issuperset(dropped) or dropped[-1] == "v1" or dropped[-len(kept) :] == kept:
        return True
    names_model = len(dropped) > 1 and dropped[-2] in NAMING
    return names_model or f"/v1/{'/'.join(kept)}" in UNMISTAKABLE


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _rule(address: str, urls: MapAdapter) -> str | None:
    """Return the rule that an address has, whatever its method, None for none; one of its own before one of an id."""
    rules = [rule for method in urls.allowed_methods(address) if (rule := rule_at(urls, method, address)) is not None]
    return min(rules, key=lambda rule: ("<" in rule, rule), default=None)


def _below_v1() -> str:
    rules = {name.split()[1].partition("/<")[0] for name in ROUTES}
    names = sorted(rule.removeprefix("/v1/") for rule in rules if rule.startswith("/v1/"))
    return f"{', '.join(names[:-1])} and {names[-1]}"
