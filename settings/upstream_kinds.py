"""What servers of each kind take beyond a plain chat, by the names that requests call it by.

The tables follow the servers' own documentation of their OpenAI-compatible routes. What a server of a kind does not
list is refused by name, because such servers ignore what they do not know, and an answer would not be what was asked
for. An entry of UPSTREAMS_FILE adds to its kind's table with `also` and takes from it with `lacks`.
"""

from __future__ import annotations

from collections.abc import Mapping

CAPABILITIES: Mapping[str, str] = {
    "tools": "functions that the model may call",
    "tool_choice": "forced calls, and calls forbidden",
    "parallel_tool_calls": "at most one call where a request asks for that",
    "schema": "answers that follow a JSON schema",
    "regex": "answers that match a regular expression (vLLM's structured_outputs)",
    "choice": "answers that are one of some texts (vLLM's structured_outputs)",
    "grammar": "answers that follow a grammar (vLLM's structured_outputs)",
    "logprobs": "log probabilities",
    "seed": "seeds",
    "stop": "stop strings",
    "penalties": "presence_penalty and frequency_penalty",
    "logit_bias": "logit_bias",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "min_tokens": "min_tokens",
    "ignore_eos": "ignore_eos",
    "completions": "plain texts that are continued (/completions)",
    "continue": "an answer that is begun and continued",
    "thinking": "reasoning, switched by chat_template_kwargs",
    "max_completion_tokens": "the length of a chat's answer by this name, and not as max_tokens",
}

_EVERYTHING = frozenset(CAPABILITIES) - {"max_completion_tokens"}  # all of their releases know max_tokens
_COMMON = frozenset({"tools", "schema", "stop"})
_OPENAI = _COMMON | {"tool_choice", "parallel_tool_calls", "logprobs", "seed", "penalties", "logit_bias"}

# Their models have defaults of their own, and refuse a temperature or a schema that is not in a form of theirs.
PROVIDERS = frozenset({"openai", "gemini", "anthropic"})

KINDS: Mapping[str, frozenset[str]] = {
    "vllm": _EVERYTHING,  # and a copy of this service
    "sglang": _EVERYTHING - {"regex", "choice", "grammar", "min_tokens", "parallel_tool_calls"},
    "llamacpp": _OPENAI | {"top_k", "min_p", "completions"},
    "ollama": _COMMON | {"seed", "penalties"},
    "openai": _OPENAI | {"max_completion_tokens"},  # its newest models refuse max_tokens
    "gemini": _COMMON | {"tool_choice"},
    "anthropic": frozenset({"tools", "tool_choice", "stop"}),
}
