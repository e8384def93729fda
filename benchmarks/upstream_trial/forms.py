"""Checks of answers that follow a form: a JSON schema, and the arguments of a forced call."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks.upstream_trial.trial import BROKEN, CUT, YES, Failed, Trial, require

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "sold": {"type": "boolean"}},
    "required": ["colour", "sold"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
LONG_ENOUGH = 200  # tokens
TRIES = 5  # of an answer that random weights may break or never end


def shaped(trial: Trial) -> str:
    """An answer follows its JSON schema."""
    return _formed(trial, _text, response_format=FORMAT)


def called(trial: Trial) -> str:
    """A forced call has arguments of its schema."""
    return _called(trial, TOOL)


def called_strictly(trial: Trial) -> str:
    """So has one of a tool that asks for it, without which some servers hold no arguments to their schema."""
    return _called(trial, {"type": "function", "function": {**TOOL["function"], "strict": True}})


def _called(trial: Trial, tool: dict[str, Any]) -> str:
    choice = {"type": "function", "function": {"name": "look"}}
    return _formed(trial, _arguments, tools=[tool], tool_choice=choice)


def _formed(trial: Trial, form: Callable[[Any], str], **fields: Any) -> str:
    """Hold an answer to SCHEMA. A typed 502 is right where the server's own answer breaks it. form: what is held to it.

    Random weights break what they are not kept from, and write white space for ever, greedy ones always: what ends at
    `max_tokens` is asked for again, and is right where the server's own answers end so.
    """
    fields |= {"max_tokens": LONG_ENOUGH, "temperature": 1}
    word = CUT
    for _ in range(TRIES):
        try:
            _, reason, body = trial.chat(**fields)
        except Failed:
            alone = trial.direct(**fields)
            fails = alone.status >= 500 or (alone.status == 200 and not _fits(form(alone.body)))
            require(fails, f"status 502, where the server itself keeps to the form ({alone.status})")
            word = BROKEN
            continue
        if _fits(form(body)):
            return YES
        require(reason == "length", f"{form(body)!r}, {reason}")
    if word == CUT:
        alone_too = any(_is_cut(trial.direct(**fields).body) for _ in range(TRIES))
        require(alone_too, f"cut {TRIES} times, where the server's own answers are not")
    return word


def _is_cut(body: Any) -> bool:
    choices = body.get("choices") or [{}]
    return bool(choices[0].get("finish_reason") == "length")


def _text(body: Any) -> str:
    return str(body["choices"][0]["message"]["content"])


def _arguments(body: Any) -> str:
    calls = body["choices"][0]["message"].get("tool_calls") or []
    named = [call["function"]["name"] for call in calls] == ["look"]
    return str(calls[0]["function"]["arguments"]) if named else f"calls {calls}"


def _fits(text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    if not isinstance(value, dict) or value.keys() != SCHEMA["properties"].keys():
        return False
    return value["colour"] in ("red", "blue") and isinstance(value["sold"], bool)
