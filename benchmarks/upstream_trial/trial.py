"""One server behind the service, what is asked of both, and the words for what came of a check."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.upstream_trial import client
from benchmarks.upstream_trial.client import Answer, Event
from benchmarks.upstream_trial.process import Process
from benchmarks.upstream_trial.served import Served

CHAT, MODEL = "/v1/chat/completions", "avibe"
PROMPT = "Write a listing for: used bicycle, red, good condition"
TOKENS = 24
PROMPTS, WORDS = 50, 4  # prompts that are tried, and words that the text of one must have
WORD = re.compile(r"[A-Za-z0-9]{2,}")

YES, REFUSED, UNSEEN, NO = "yes", "refused, as documented", "cannot be seen", "NO: "
BROKEN = "502, as documented: the server itself breaks the form"
CUT = "cut at max_tokens, as the server's own answers"
FAILED = "upstream_error"  # the code of what is the server's fault
MOST_CHARACTERS = 160  # of the reason in a table


class Wrong(Exception):
    """What came is not what it should be."""


class Failed(Wrong):
    """The service says that the server has failed."""


class Refused(Exception):
    """The service does not pass this on. field: that it names."""

    def __init__(self, field: str) -> None:
        super().__init__(f"400 about {field}")
        self.field = field


@dataclass(frozen=True, slots=True)
class Trial:
    """A server and the service in front of it, at the address `front`. prompt: of every chat but those about others."""

    served: Served
    process: Process
    front: str
    prompt: str = PROMPT

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation of every chat."""
        return [{"role": "user", "content": self.prompt}]

    def asked(self, **fields: Any) -> dict[str, Any]:
        """Return the body of a chat, with these fields."""
        plain = {"model": MODEL, "messages": self.messages, "temperature": 0, "max_tokens": TOKENS}
        return plain | fields

    def whole(self, path: str, **fields: Any) -> Any:
        """Return the body of a good answer of the service. Raises Refused, or Wrong for any other status."""
        return good(client.post(self.front, path, fields))

    def chat(self, **fields: Any) -> tuple[str, str, Any]:
        """Return text, finish reason and body of a chat's answer."""
        body = self.whole(CHAT, **self.asked(**fields))
        choice = body["choices"][0]
        return choice["message"]["content"] or "", choice["finish_reason"], body

    def direct(self, **fields: Any) -> Answer:
        """Return the server's own answer to the request that the service makes of such a chat."""
        body = self.asked(**fields) | {"model": self.served.model}
        if self.served.kind == "llamacpp" and isinstance(body.get("tool_choice"), dict):
            body["tool_choice"] = "required"  # it does not know a function by name
        if "thinking" in self.served.takes:
            body["chat_template_kwargs"] = {"enable_thinking": False}
        return client.post(self.process.address, CHAT, body)

    def state(self) -> Mapping[str, Any]:
        """Return what the service tells of the server."""
        body = client.get(self.front, "/api/health/upstreams").body
        return {"status": body["status"], **body["upstreams"][MODEL]["servers"][0]}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is tried. needs: the capability it takes, "" for none; field: what is named where it is not taken.

    run: returns a word. Raises Wrong, Refused, or what reading an answer of another shape raises.
    """

    name: str
    run: Callable[[Trial], str]
    needs: str = ""
    field: str = ""


def tried(check: Check, trial: Trial) -> str:
    """Return the word for one check."""
    taken = not check.needs or check.needs in trial.served.takes
    try:
        word = check.run(trial)
    except Refused as refusal:
        if not taken and refusal.field == check.field:
            return REFUSED
        return no(str(refusal))
    except Wrong as wrong:
        return no(str(wrong))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        return no(f"{type(error).__name__}: {error}")
    return word if taken else no(f"answered, though {check.field} is not passed on")


def no(reason: str) -> str:
    """Return the word of a check that failed, as a table's cell."""
    shown = " ".join(reason.replace("|", "/").split())
    return NO + shown[:MOST_CHARACTERS]


def worded(trial: Trial) -> Trial:
    """Return the trial with a prompt that the server answers with words: random weights break characters as well.

    Raises Wrong if there is none.
    """
    for number in range(PROMPTS):
        one = replace(trial, prompt=f"{PROMPT}, number {number}" if number else PROMPT)
        answer = one.direct()
        if answer.status != 200:
            raise Wrong(f"the server answers with {answer.status}: {answer.body}")
        text = answer.body["choices"][0]["message"]["content"] or ""
        if len(WORD.findall(text)) >= WORDS and "\ufffd" not in text:
            return one
    raise Wrong(f"none of {PROMPTS} prompts is answered with words")


def good(answer: Answer) -> Any:
    """Return the body of a success. Raises Refused for a 400 about a field, Failed for a 502, Wrong for the rest."""
    if answer.status == 200:
        return answer.body
    if answer.status == 400 and (field := told(answer.body, "param")):
        raise Refused(field)
    said = f"status {answer.status}, {told(answer.body, 'code') or answer.body}"
    raise Failed(said) if answer.status == 502 and told(answer.body, "code") == FAILED else Wrong(said)


def told(body: Any, name: str) -> str:
    """Return a field of the error in a body of OpenAI's shape, "" for none."""
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get(name) or "") if isinstance(error, dict) else ""


def text_of(event: Event) -> str:
    """Return the text in one event of a streamed chat."""
    choices = (event.data or {}).get("choices") or ()
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def require(holds: bool, otherwise: str) -> None:
    """Raise Wrong unless something holds."""
    if not holds:
        raise Wrong(otherwise)
