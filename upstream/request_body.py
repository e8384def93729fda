"""A request as an OpenAI-compatible server takes it; what its kind does not take is refused by name.

Fields with neutral values are left out, so that every server gets the fewest that say what is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from config import Upstream
from engine.errors import Unsupported
from engine.text import image_header
from engine.text.call_arguments import begun_object, whole_object
from engine.types import (
    ANY_OBJECT,
    AnswerRules,
    ChatPrompt,
    EncodedImage,
    GenerationRequest,
    SamplingParams,
    TextPrompt,
)
from upstream.amendment import LENGTH, OWN_FIELDS
from upstream.large_body import DataUrl, LargeBody, written

CHAT, COMPLETIONS = "/chat/completions", "/completions"
MEDIA_TYPES: Mapping[Callable[[bytes], tuple[int, int]], str] = {
    image_header.read_png: "image/png",
    image_header.read_jpeg: "image/jpeg",
    image_header.read_webp: "image/webp",
    image_header.read_gif: "image/gif",
    image_header.read_bmp: "image/bmp",
    image_header.read_avif: "image/avif",
    image_header.read_ico: "image/x-icon",
}

LONG_ARGUMENTS, ENDS = 64 * 1024, 64  # characters of the arguments of a call


def encode(
    upstream: Upstream, request: GenerationRequest, max_tokens: int, without: Collection[str] = ()
) -> tuple[str, bytes | LargeBody, frozenset[str]]:
    """Return the path below the base URL, the body, and which of OWN_FIELDS it has. without: fields that are left out.

    Raises Unsupported for what the server does not take.
    """
    prompt, sampling = request.prompt, request.sampling
    check(upstream, request)
    body: dict[str, Any] = {"model": upstream.model, "stream": True, "stream_options": {"include_usage": True}}
    if isinstance(prompt, ChatPrompt):
        path = CHAT
        body |= _chat(upstream, prompt, sampling.rules)
        newer = LENGTH in upstream.takes and LENGTH not in without
        body[LENGTH if newer else "max_tokens"] = max_tokens
    else:
        path = COMPLETIONS
        body["prompt"] = prompt.text if isinstance(prompt, TextPrompt) else list(prompt.token_ids)
        body["max_tokens"] = max_tokens
    body |= dict(_sampled(upstream, sampling, chat=path == CHAT))
    for name in without:
        body.pop(name, None)
    return path, written(body), frozenset(OWN_FIELDS & body.keys())


def check(upstream: Upstream, request: GenerationRequest) -> None:
    """Raise Unsupported for the first thing that the request asks for and the server does not take."""
    for capability, field in _wanted(request):
        if capability not in upstream.takes:
            raise Unsupported(f"The server that answers for this model does not take {field}.", field)


def _wanted(request: GenerationRequest) -> Iterator[tuple[str, str]]:
    """Yield each capability that a request asks for, and the field that does."""
    sampling, prompt = request.sampling, request.prompt
    fields = {
        "logprobs": sampling.logprobs is not None,
        "seed": sampling.seed is not None,
        "stop": bool(sampling.stop),
        "logit_bias": bool(sampling.logit_bias),
        "top_k": bool(sampling.top_k),
        "min_p": bool(sampling.min_p),
        "repetition_penalty": sampling.repetition_penalty != 1,
        "min_tokens": bool(sampling.min_tokens),
        "ignore_eos": sampling.ignore_eos,
    }
    yield from ((name, name) for name, asked in fields.items() if asked)
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(sampling, name):
            yield "penalties", name
    for name in ("return_token_ids", "return_tokens_as_token_ids", "echo"):
        if getattr(sampling, name):
            yield "", name
    if not isinstance(prompt, ChatPrompt):
        yield "completions", "prompt"
    else:
        if prompt.thinking:
            yield "thinking", "reasoning"
        if prompt.continues or not prompt.opens_answer:
            yield "continue", "messages"
        if prompt.tools:
            yield "tools", "tools"
    if sampling.rules is not None:
        yield from _wanted_rules(sampling.rules)


def _wanted_rules(rules: AnswerRules) -> Iterator[tuple[str, str]]:
    forms = {
        "schema": rules.schema is not None,
        "regex": rules.regex is not None,
        "choice": bool(rules.choice),
        "grammar": rules.lark is not None,
    }
    yield from ((name, rules.field) for name, asked in forms.items() if asked)
    if rules.forced:
        yield "tool_choice", "tool_choice"
    if not rules.parallel and rules.arguments:
        yield "parallel_tool_calls", "parallel_tool_calls"


def _chat(upstream: Upstream, prompt: ChatPrompt, rules: AnswerRules | None) -> dict[str, Any]:
    images = iter(prompt.images)
    body: dict[str, Any] = {"messages": [_message(message, images) for message in prompt.messages]}
    if prompt.tools:
        body["tools"] = [_tool(tool, rules) for tool in prompt.tools]
    if "thinking" in upstream.takes:
        body["chat_template_kwargs"] = {"enable_thinking": prompt.thinking}
    if prompt.continues:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    elif not prompt.opens_answer:
        body["add_generation_prompt"] = False
    if rules is not None:
        body |= _ruled(upstream, rules)
    if upstream.kind == "llamacpp" and isinstance(body.get("tool_choice"), dict):
        body |= _chosen(body["tools"], body["tool_choice"]["function"]["name"])
    return body


def _tool(tool: Mapping[str, Any], rules: AnswerRules | None) -> Mapping[str, Any]:
    """Return a tool with what the request says of its being strict: vLLM holds free calls to their schema only then."""
    function = tool["function"]
    strict = None if rules is None or rules.strict is None else rules.strict.get(function["name"])
    return tool if strict is None else {**tool, "function": {**function, "strict": strict}}


def _chosen(tools: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the fields that have one function called, for servers that know the words of `tool_choice` alone."""
    return {"tools": [tool for tool in tools if tool["function"]["name"] == name], "tool_choice": "required"}


def _message(message: Mapping[str, Any], images: Iterator[EncodedImage]) -> dict[str, Any]:
    content = message["content"]
    shown: dict[str, Any] = {"role": message["role"], "content": content}
    if not isinstance(content, str):
        shown["content"] = [part if part["type"] == "text" else _image(next(images)) for part in content]
    elif "tool_calls" in message and not content:
        shown["content"] = None
    if "tool_calls" in message:
        shown["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return shown | ({"tool_call_id": message["tool_call_id"]} if "tool_call_id" in message else {})


def _call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a call of the history with an object as its arguments: servers fail on those of a call that was cut.

    Long ones are not parsed, which would hold the interpreter lock: by their ends alone they are whole or not.
    """
    function, arguments = call["function"], call["function"]["arguments"]
    long = len(arguments) > LONG_ARGUMENTS
    if _has_ends(arguments) if long else whole_object(arguments) is not None:
        return call
    begun = "{}" if long else json.dumps(begun_object(arguments), ensure_ascii=False)
    return {**call, "function": {**function, "arguments": begun}}


def _has_ends(arguments: str) -> bool:
    return arguments[:ENDS].lstrip().startswith("{") and arguments[-ENDS:].rstrip().endswith("}")


def _image(image: EncodedImage) -> dict[str, Any]:
    reader = image_header.reader_for(image.data)
    media_type = "image/png" if reader is None else MEDIA_TYPES[reader]
    return {"type": "image_url", "image_url": {"url": DataUrl(media_type, image.data)}}


def _ruled(upstream: Upstream, rules: AnswerRules) -> dict[str, Any]:
    """Return the fields that hold an answer to its rules."""
    body: dict[str, Any] = {}
    if rules.arguments:
        if rules.call not in ("auto", "required"):
            body["tool_choice"] = {"type": "function", "function": {"name": rules.call}}
        elif rules.forced:
            body["tool_choice"] = rules.call
        if not rules.parallel:
            body["parallel_tool_calls"] = False
    if rules.schema is not None:
        body["response_format"] = _json_format(upstream, rules)
    elif rules.regex is not None:
        body["structured_outputs"] = {"regex": rules.regex}
    elif rules.choice:
        body["structured_outputs"] = {"choice": rules.choice}
    elif rules.lark is not None:
        body["structured_outputs"] = {"grammar": rules.lark}
    return body


def _json_format(upstream: Upstream, rules: AnswerRules) -> dict[str, Any]:
    """Return the `response_format` of a schema.

    Providers enforce a strict schema only in a form of their own, and refuse any other: there it is strict where the
    client says so. The answer is checked here in any case.
    """
    if upstream.of_provider and rules.schema == ANY_OBJECT:
        return {"type": "json_object"}
    strict = {"strict": True} if rules.strict_schema or not upstream.of_provider else {}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": rules.schema, **strict}}


def _sampled(upstream: Upstream, sampling: SamplingParams, chat: bool) -> Iterator[tuple[str, Any]]:
    """Yield the fields of the sampling parameters that are not neutral."""
    if sampling.names_temperature or not upstream.of_provider:
        yield "temperature", sampling.temperature
    neutral = {
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "min_tokens": 0,
        "ignore_eos": False,
    }
    for name, value in neutral.items():
        if getattr(sampling, name) != value:
            yield name, getattr(sampling, name)
    if sampling.seed is not None:
        yield "seed", sampling.seed
    if sampling.stop:
        yield "stop", list(sampling.stop)
    if sampling.logit_bias:
        yield "logit_bias", {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        # llama.cpp takes 0 for none at all, and shows 20 alternatives where it is not told how many.
        alternatives = max(1, sampling.logprobs) if upstream.kind == "llamacpp" else sampling.logprobs
        if not chat:
            yield "logprobs", alternatives
        else:
            yield "logprobs", True
            if alternatives:
                yield "top_logprobs", alternatives
    if sampling.rules is not None and not chat:
        yield from _ruled(upstream, sampling.rules).items()
