"""Checks of what is answered. Random weights write nonsense, so none of them needs sense."""

from __future__ import annotations

from typing import Any

from benchmarks.upstream_trial import client
from benchmarks.upstream_trial.forms import FORMAT, TOOL, called, called_strictly, shaped
from benchmarks.upstream_trial.trial import (
    CHAT,
    MODEL,
    TOKENS,
    UNSEEN,
    WORD,
    YES,
    Check,
    Refused,
    Trial,
    Wrong,
    require,
    text_of,
    told,
)
from engine.text.prompt_size import LONGEST_TOKEN

TOO_LONG = "context_length_exceeded"
OTHER_SEEDS = range(8, 16)  # a trained model gives several the same text
SYMBOLS = "~q7]^X{0|Zk#}9"  # of which a token holds few

# A request that asks for each capability, and the field that names it.
FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "tools": ("tools", {"tools": [TOOL]}),
    "schema": ("response_format.json_schema.schema", {"response_format": FORMAT}),
    "logprobs": ("logprobs", {"logprobs": True}),
    "seed": ("seed", {"seed": 7}),
    "stop": ("stop", {"stop": ["x"]}),
    "penalties": ("presence_penalty", {"presence_penalty": 0.5}),
    "logit_bias": ("logit_bias", {"logit_bias": {"5": 1}}),
    "top_k": ("top_k", {"top_k": 5}),
    "min_p": ("min_p", {"min_p": 0.1}),
    "repetition_penalty": ("repetition_penalty", {"repetition_penalty": 1.1}),
    "ignore_eos": ("ignore_eos", {"ignore_eos": True}),
    "min_tokens": ("min_tokens", {"min_tokens": 2}),
}
NEVER = {"return_token_ids": ("return_token_ids", {"return_token_ids": True})}


def whole(trial: Trial) -> str:
    """A chat is answered with the text that the server gives by itself."""
    text, _, _ = trial.chat()
    own = trial.direct().body["choices"][0]["message"]["content"]
    require(bool(text.strip()), "an empty text")
    require(text.strip() == own.strip(), f"{text!r} and by the server itself {own!r}")
    return YES


def streamed(trial: Trial) -> str:
    """A stream has the same text in several events, one finish reason, its usage and its end."""
    text, reason, body = trial.chat()
    with client.stream(trial.front, CHAT, trial.asked(stream_options={"include_usage": True})) as stream:
        require(stream.status == 200, f"status {stream.status}")
        events = list(stream)
    parts = [part for event in events if (part := text_of(event))]
    require("".join(parts) == text, f"{''.join(parts)!r} in place of {text!r}")
    require(len(parts) > 1, "all text in one event")
    chunks = [event.data for event in events if event.data is not None]
    reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c.get("finish_reason")]
    require(reasons == [reason], f"finish reasons {reasons}")
    require([chunk["usage"] for chunk in chunks if chunk.get("usage")] == [body["usage"]], "another usage")
    require(events[-1].data is None, "no [DONE]")
    return YES


def usage(trial: Trial) -> str:
    """The tokens are those that the server counts."""
    _, _, body = trial.chat()
    own = trial.direct().body["usage"]
    for name in ("prompt_tokens", "completion_tokens"):
        require(body["usage"][name] == own[name], f"{name}: {body['usage'][name]}, by the server itself {own[name]}")
    return YES


def stopped(trial: Trial) -> str:
    """A text ends before the stop string, a word in its middle."""
    text, _, _ = trial.chat()
    found = WORD.search(text, len(text) // 3)
    require(found is not None, f"no word in {text!r}")
    assert found is not None
    shown, reason, _ = trial.chat(stop=[found[0]])
    require(shown == text[: text.index(found[0])], f"{shown!r} of {text!r} before {found[0]!r}")
    require(reason == "stop", f"finish reason {reason}")
    return YES


def seeded(trial: Trial) -> str:
    """The same seed gives the same text, and one of some other seeds another one."""

    def drawn(seed: int) -> str:
        return trial.chat(temperature=1.5, seed=seed)[0]

    first, again = drawn(7), drawn(7)
    require(first == again, f"{first!r} and then {again!r}")
    require(any(drawn(seed) != first for seed in OTHER_SEEDS), "the same text for other seeds")
    return YES


def scored(trial: Trial) -> str:
    """Each token has its log probability, and those of two others."""
    _, _, body = trial.chat(logprobs=True, top_logprobs=2)
    found = body["choices"][0]["logprobs"]["content"]
    made = body["usage"]["completion_tokens"]
    require(made - 1 <= len(found) <= made, f"{len(found)} log probabilities of {made} tokens")
    require(all(one["logprob"] <= 0 and len(one["top_logprobs"]) == 2 for one in found), f"{found[0]}")
    return YES


def cut(trial: Trial) -> str:
    """An answer has as many tokens as it may, and says that it was cut."""
    _, reason, body = trial.chat(max_tokens=4)
    require(reason == "length", f"finish reason {reason}")
    require(body["usage"]["completion_tokens"] == 4, f"{body['usage']['completion_tokens']} tokens")
    return YES


def completed(trial: Trial) -> str:
    """A plain text is continued."""
    body = trial.whole("/v1/completions", model=MODEL, prompt="For sale:", max_tokens=8, temperature=0)
    require(bool(body["choices"][0]["text"]), "an empty text")
    return YES


def anthropic(trial: Trial) -> str:
    """Anthropic's messages have the text of the chat."""
    body = trial.whole("/v1/messages", model=MODEL, messages=trial.messages, max_tokens=TOKENS, temperature=0)
    return _same(trial, "".join(part["text"] for part in body["content"]))


def responses(trial: Trial) -> str:
    """The Responses API has the text of the chat."""
    body = trial.whole("/v1/responses", model=MODEL, input=trial.prompt, max_output_tokens=TOKENS, temperature=0)
    parts = [part["text"] for item in body["output"] for part in item.get("content") or ()]
    return _same(trial, "".join(parts))


def own(trial: Trial) -> str:
    """The service's own route answers."""
    body = trial.whole("/api/v1/text/generate", prompt=trial.prompt, max_tokens=TOKENS, temperature=0)
    require(bool(body["data"]["text"].strip()), "an empty text")
    return YES


def named(trial: Trial) -> str:
    """What the kind does not take is a 400 that names the field."""
    lacking = {name: one for name, one in FIELDS.items() if name not in trial.served.takes} | NEVER
    for name, (field, fields) in lacking.items():
        try:
            trial.chat(**fields)
        except Refused as refusal:
            require(refusal.field == field, f"{name}: 400 about {refusal.field}")
        else:
            raise Wrong(f"{name} was answered")
    return YES


def too_long(trial: Trial) -> str:
    """A prompt beyond the context is a typed 400: one that the service sees, and one that only the server counts."""
    length = trial.served.length
    _refused_as_long(trial, "word " * length * LONGEST_TOKEN)
    messages = [{"role": "user", "content": (SYMBOLS * length)[: 2 * length]}]
    if trial.direct(messages=messages).status == 200:
        return UNSEEN  # it takes more than it was said to
    _refused_as_long(trial, messages[0]["content"])
    return YES


def _refused_as_long(trial: Trial, text: str) -> None:
    answer = client.post(trial.front, CHAT, trial.asked(messages=[{"role": "user", "content": text}]))
    code = told(answer.body, "code")
    require((answer.status, code) == (400, TOO_LONG), f"status {answer.status}, {code} for {len(text)} characters")


def _same(trial: Trial, text: str) -> str:
    own, _, _ = trial.chat()
    require(text == own, f"{text!r} in place of {own!r}")
    return YES


CHECKS = (
    Check("a whole chat answer, the server's own text", whole),
    Check("a stream in several events, the same text", streamed),
    Check("usage, as the server counts", usage),
    Check("completions", completed, "completions", "prompt"),
    Check("a stop string", stopped, "stop", "stop"),
    Check("a seed, repeated", seeded, "seed", "seed"),
    Check("log probabilities", scored, "logprobs", "logprobs"),
    Check("an answer cut by max_tokens", cut),
    Check("a JSON schema", shaped, "schema", FIELDS["schema"][0]),
    Check("a forced call", called, "tool_choice", "tool_choice"),
    Check("a forced call of a strict tool", called_strictly, "tool_choice", "tool_choice"),
    Check("/v1/messages, the same text", anthropic),
    Check("/v1/responses, the same text", responses),
    Check("/api/v1", own),
    Check("what its kind does not take is refused by name", named),
    Check("a prompt that is too long", too_long),
)
