"""What changes no answer is passed over, wherever it stands; what would change it is refused by name."""

import json
from dataclasses import replace

import pytest

from engine.types import Vocabulary
from routes.chat.answer_format import AnswerFormat
from routes.openai.structured_output import answer_format
from routes.passed_over import FORMAT, HINTS, HISTORY, NEUTRAL, NOTES, REQUEST, STREAM_OPTIONS, TEMPLATE, TOOL
from routes.validation import validated
from tests.routes.chat.test_grammars import LETTERS
from tests.routes.test_openai import CHAT, HELLO, TEXT, URL, ask, image_part, refused, said
from tests.routes.test_openai import TOOL as FUNCTION

MESSAGE = {"max_tokens": 5, "messages": HELLO}
HINTED = [
    *({name: value} for name in ("user", "metadata", "verbosity", "moderation") for value in ("x", 5, {"a": [1]})),
    *({"service_tier": "priority"}, {"store": True}, {"priority": -3}, {"keep_alive": "5m"}, {"cache_prompt": True}),
    *({"prompt_cache_options": {"retention": "24h"}}, {"provider": {"order": ["x"]}}, {"id_slot": 2}, {"rid": "x"}),
]
NEUTRALS = [
    *({"add_generation_prompt": True}, {"skip_special_tokens": True}, {"spaces_between_special_tokens": False}),
    *(
        {"use_beam_search": False},
        {"length_penalty": 1},
        {"length_penalty": 1.0},
        {"best_of": 1},
        {"early_stopping": False},
    ),
    *({"include_stop_str_in_output": False}, {"min_tokens": 0}, {"stop_token_ids": []}, {"bad_words": []}),
    *({"guided_decoding_backend": "xgrammar"}, {"guided_whitespace_pattern": None}),
    *({"truncate_prompt_tokens": None}, {"truncate_prompt_tokens": -1}, {"prompt_logprobs": None}, {"echo": False}),
    *({"mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1}, {"tfs_z": 1.0}, {"typical_p": 1}, {"n_predict": -1}),
    *({"xtc_probability": 0.0, "xtc_threshold": 0.1}, {"dry_multiplier": 0, "dry_base": 1.75}, {"top_a": 0}),
    *({"n_probs": 0}, {"repeat_penalty": 1.0, "repeat_last_n": 64}, {"samplers": []}, {"lora": []}, {"grammar": ""}),
    *({"think": False}, {"options": {}}, {"format": ""}, {"thinking": {"type": "disabled"}}, {"do_sample": True}),
    *(
        {"suffix": ""},
        {"response_format": {"type": "text"}},
        {"max_tokens": -1},
        {"max_tokens": None},
        {"logit_bias": []},
        {"logit_bias": {}},
        {"stop": []},
    ),
    *({"stream_options": {"include_usage": True}}, {"stream_options": {"continuous_usage_stats": True}}),
    *({"stream_options": {}}, {"stream_options": None}, {"stream": False, "stream_options": {"include_usage": False}}),
    *({"something": None}, {"something": False}, {"something": []}, {"something": {}}, {"something": ""}),
]
OF_CHATS = [
    *({"tools": []}, {"tools": None, "tool_choice": None}, {"parallel_tool_calls": False}, {"functions": []}),
    *({"tool_choice": "auto"}, {"tools": [], "tool_choice": "auto"}, {"tool_choice": {"type": "auto"}}),
    *({"function_call": "auto"}, {"function_call": "none"}, {"modalities": ["text"]}, {"audio": None}),
    *({"top_logprobs": 0}, {"logprobs": False}, {"response_format": None}, {"response_format": {"type": "text"}}),
    *({"reasoning_effort": level} for level in ("none", "minimal", "low", "medium", "high", "xhigh", "max", "default")),
    *({"chat_template_kwargs": one} for one in ({}, {"thinking": True, "style": 1, "add_generation_prompt": True})),
    {"tools": [FUNCTION | {"type": None, "cache_control": {"type": "ephemeral"}, "defer_loading": False}]},
]
# What would change the answer, with what the refusal says beside the name.
CHANGES = [
    ({"use_beam_search": True}, "must be false"),
    ({"length_penalty": 1.2}, "must be 1"),
    ({"length_penalty": True}, "must be 1"),
    ({"best_of": 3}, "must be 1"),
    ({"skip_special_tokens": 1}, "must be true"),
    ({"mirostat": 2}, "must be 0"),
    ({"mirostat": False}, "must be 0"),
    ({"typical_p": 0.9}, "must be 1"),
    ({"top_n_sigma": 1.5}, "must be 0 or -1"),
    ({"n_predict": 50}, "Use max_tokens."),
    ({"max_new_tokens": 50}, "Use max_tokens."),
    ({"think": True}, "Use reasoning_effort."),
    ({"thinking": {"type": "enabled"}}, "Use reasoning_effort."),
    ({"grammar": "root ::= x"}, "Use structured_outputs."),
    ({"regex": "[ab]"}, "Use structured_outputs."),
    ({"ebnf": "root ::= x"}, "Use structured_outputs."),
    ({"json_schema": {}}, "Use response_format."),
    ({"random_seed": 5}, "Use seed."),
    ({"prompt_logprobs": 1}, "Use echo and logprobs of /v1/completions."),
    ({"functions": [{"name": "f"}]}, "Use tools."),
    ({"modalities": ["audio"]}, "This service writes text alone."),
    ({"audio": {"voice": "x"}}, "This service writes text alone."),
    ({"web_search_options": {}}, "Nothing is searched."),
    ({"documents": [{"text": "x"}]}, "is not supported."),
    ({"something": True}, "Unknown field: something."),
    ({"something": 0}, "Unknown field: something."),
    ({"temprature": 0.5}, "Unknown field: temprature."),
]

ELSEWHERE = "Use structured_outputs of /v1/chat/completions."
# What is said in place of a field that completions do not have.
IN_COMPLETIONS = {
    "Use response_format.": "Use structured_outputs.",
    "Use reasoning_effort.": "not supported.",
    "Use tools.": "is not supported.",
}


def named(fields):
    return [json.dumps(one) for one in fields]


@pytest.mark.parametrize("fields", HINTED + NEUTRALS + OF_CHATS, ids=named(HINTED + NEUTRALS + OF_CHATS))
def test_what_changes_nothing_is_passed_over_in_a_chat(client, avibe, fields):
    """The prompt and its sampling are those of the request without it."""
    assert ask(client).status_code == 200
    plain = avibe.submitted.pop()
    assert ask(client, **fields).status_code == 200
    sampling = replace(avibe.only.sampling, rules=None)  # which name the tools of the request
    assert (avibe.only.prompt.messages, sampling) == (plain.prompt.messages, plain.sampling)


@pytest.mark.parametrize("fields", HINTED + NEUTRALS, ids=named(HINTED + NEUTRALS))
def test_what_changes_nothing_is_passed_over_in_a_completion(client, avibe, fields):
    """The same rule."""
    assert client.post(TEXT, json={"model": "avibe", "prompt": "x"}).status_code == 200
    plain = avibe.submitted.pop()
    assert client.post(TEXT, json={"model": "avibe", "prompt": "x"} | fields).status_code == 200
    assert (avibe.only.prompt, avibe.only.sampling) == (plain.prompt, plain.sampling)


@pytest.mark.parametrize(("fields", "says"), CHANGES, ids=named(fields for fields, _ in CHANGES))
def test_what_would_change_the_answer_is_refused_by_name(client, avibe, fields, says):
    """In chats and in completions, with what is supported instead, if it is in this request."""
    for path, prompt, note in (
        (CHAT, {"messages": HELLO}, says),
        (TEXT, {"prompt": "x"}, IN_COMPLETIONS.get(says, says)),
    ):
        response = client.post(path, json={"model": "avibe"} | prompt | fields)
        message, param = refused(response, 400, "validation_error")
        assert param == next(iter(fields))
        assert param in message
        assert note in message
    assert avibe.submitted == []


def test_the_tables_do_not_contradict_each_other():
    """A name is a hint or has neutral values; what is to be used instead is of a field that is not a hint."""
    assert not HINTS & set(NEUTRAL)
    assert not HINTS & set(NOTES)
    for table in (REQUEST, HISTORY, TOOL, FORMAT, TEMPLATE, STREAM_OPTIONS):
        assert all(table.allows(name, value) for name, values in table.neutral.items() for value in values)
        assert all(table.refusal(name, set()) for name in table.neutral)


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        (CHAT, {"messages": HELLO, "stop_sequences": ["a"]}, "Use stop."),
        (CHAT, {"messages": HELLO, "max_output_tokens": 5}, "Use max_tokens."),
        (TEXT, {"prompt": "x", "response_format": {"type": "json_object"}}, "Use structured_outputs."),
        ("/v1/tokenize", {"prompt": "x", "n_predict": 5}, "must be -1; other values are not supported."),
        ("/v1/tokenize", {"prompt": "x", "max_new_tokens": 5}, "Unknown field: max_new_tokens."),
        (TEXT, {"prompt": "x", "regex": "a"}, "Use structured_outputs."),
        ("/v1/responses", {"input": "x", "guided_regex": "a"}, ELSEWHERE),
        ("/v1/responses", {"input": "x", "guided_choice": ["a"]}, ELSEWHERE),
        ("/v1/responses", {"input": "x", "structured_outputs": {"regex": "a"}}, ELSEWHERE),
        ("/v1/responses", {"input": "x", "guided_json": {"const": 1}}, "Use text.format."),
        ("/v1/responses", {"input": "x", "think": True}, "Use reasoning."),
        ("/v1/responses", {"input": "x", "n_cmpl": 2}, "n_cmpl must be 1; other values are not supported."),
        ("/v1/messages", MESSAGE | {"max_completion_tokens": 5}, "Use max_tokens."),
        ("/v1/messages", MESSAGE | {"reasoning_effort": "high"}, "Use thinking."),
        ("/v1/messages", MESSAGE | {"guided_json": {"const": 1}}, "Use output_config.format."),
        ("/v1/messages", MESSAGE | {"grammar": "a"}, ELSEWHERE),
        ("/v1/messages", MESSAGE | {"ebnf": "a"}, ELSEWHERE),
        ("/v1/messages", MESSAGE | {"repeat_penalty": 1.2}, "must be 1; other values are not supported."),
        ("/v1/messages", MESSAGE | {"random_seed": 5}, "Unknown field: random_seed."),
    ],
)
def test_what_to_use_instead_is_a_field_of_the_same_request(client, path, fields, says):
    """Each protocol has its own name for it, or nothing of the kind."""
    error = client.post(path, json={"model": "avibe"} | fields).json["error"]
    assert error["message"].endswith(says)


WITHIN_HINTS = [
    ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm must be false"),
    ({"prompt_cache_options": {"ttl": "30m", "prewarm": 1}}, "prompt_cache_options.prewarm must be false"),
    ({"moderation": {"policy": {"input": {"mode": "block"}}}}, 'moderation.policy.input.mode must be "score"'),
    ({"moderation": {"policy": {"output": {"mode": "block"}}}}, 'moderation.policy.output.mode must be "score"'),
]
HARMLESS_WITHIN = [
    *({"prompt_cache_options": {"prewarm": one, "mode": "explicit"}} for one in (None, False)),
    *({"moderation": {"model": "m", "policy": one}} for one in (None, {}, [], {"input": {"mode": "score"}})),
    {"moderation": {"policy": {"input": None, "output": {"mode": None}}}},
    *({"prompt_cache_options": one} for one in ("x", 5, [["prewarm"]], {"other": {"prewarm": True}})),
    {"context_management": []},
]
ROUTES = {
    CHAT: {"messages": HELLO},
    TEXT: {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": MESSAGE,
}


@pytest.mark.parametrize(("fields", "says"), WITHIN_HINTS, ids=named(fields for fields, _ in WITHIN_HINTS))
@pytest.mark.parametrize("path", ROUTES)
def test_what_changes_the_answer_is_refused_within_a_hint(client, avibe, path, fields, says):
    """No answer where one is generated here, or one that is withheld where none is."""
    response = client.post(path, json={"model": "avibe"} | ROUTES[path] | fields)
    assert (response.status_code, avibe.submitted) == (400, [])
    assert response.json["error"]["message"].startswith(f"{says}; other values are not supported. ")


@pytest.mark.parametrize("fields", HARMLESS_WITHIN, ids=named(HARMLESS_WITHIN))
@pytest.mark.parametrize("path", ROUTES)
def test_a_hint_that_asks_for_nothing_of_the_kind_is_passed_over(client, avibe, path, fields):
    """Whatever it is."""
    response = client.post(path, json={"model": "avibe"} | ROUTES[path] | fields)
    assert response.status_code == 200, response.json


ELSEWHERE = [
    *({"n": 1}, {"presence_penalty": 0}, {"frequency_penalty": 0.0}, {"repetition_penalty": 1.0}, {"min_p": 0}),
    *({"top_logprobs": 0}, {"logprobs": False}, {"logit_bias": {}}, {"tool_choice": "none"}, {"top_k": -1}),
    *({"tool_choice": {"type": "auto"}}, {"parallel_tool_calls": True}, {"reasoning_effort": "none"}),
    *({"chat_template_kwargs": {"enable_thinking": False}}, {"stream_options": {"include_usage": True}}),
]


@pytest.mark.parametrize("fields", ELSEWHERE, ids=named(ELSEWHERE))
@pytest.mark.parametrize("path", ROUTES)
def test_a_field_of_another_protocol_may_say_what_holds_anyway(client, avibe, path, fields):
    """A program that speaks several sends its settings to each; those that change nothing break none."""
    if path == "/v1/messages" and "tool_choice" in fields:
        fields = {"tool_choice": {"type": "auto"}}  # an object in this protocol
    assert client.post(path, json={"model": "avibe"} | ROUTES[path]).status_code == 200
    plain = avibe.submitted.pop()
    response = client.post(path, json={"model": "avibe"} | ROUTES[path] | fields)
    assert response.status_code == 200, response.json
    assert (avibe.only.prompt, avibe.only.sampling) == (plain.prompt, plain.sampling)


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("/v1/messages", {"presence_penalty": 0.5}, "presence_penalty must be 0; other values are not supported."),
        ("/v1/responses", {"n": 2}, "n must be 1; other values are not supported."),
        (TEXT, {"tool_choice": "required"}, 'must be "none" or "auto" or {"type": "none"} or {"type": "auto"}'),
        (TEXT, {"reasoning_effort": "high"}, "reasoning_effort must be"),
        ("/v1/responses", {"chat_template_kwargs": {"enable_thinking": True}}, "Use reasoning."),
        ("/v1/messages", {"max_tokens_to_sample": 5}, "Use max_tokens."),
    ],
)
def test_another_value_of_such_a_field_is_refused_by_name(client, path, fields, says):
    """It would change the answer."""
    error = client.post(path, json={"model": "avibe"} | ROUTES[path] | fields).json["error"]
    assert says in error["message"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("n", "best_of", "status"), [(2, 2, 200), (2, 1, 200), (2, 3, 400), (2, True, 400), (1, True, 400), (None, 2, 400)]
)
def test_the_best_of_as_many_as_are_shown_is_all_of_them(client, path, n, best_of, status):
    """So OpenAI's API wants it: at least `n`. More than that would be a choice."""
    body = {"model": "avibe", "n": n, "best_of": best_of} | ROUTES[path]
    assert client.post(path, json=body).status_code == status


def test_log_probabilities_without_alternatives_are_shown(client):
    """`logprobs: 0` of completions asks for those of the tokens alone."""
    assert client.post(TEXT, json={"model": "avibe", "prompt": "x", "logprobs": 0}).json["choices"][0]["logprobs"]


CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
VANISHING = [
    {"tool_calls": [CALL]},
    {"function_call": CALL["function"]},
    {"images": ["x"]},
    {"image_url": {"url": URL}},
]


@pytest.mark.parametrize("more", VANISHING, ids=named(VANISHING))
def test_what_would_vanish_from_a_message_is_refused_by_name(client, avibe, more):
    """Calls and images in a field that this protocol, or this role or part, does not have; and nothing where empty."""
    (field,) = more
    part = {"type": "text", "text": "x"}
    for message, place in (
        ({"role": "user", "content": "x"} | more, field),
        ({"role": "user", "content": [part | more]}, f"content[0].{field}"),
    ):
        for path, name in ((CHAT, "messages"), ("/v1/responses", "input"), ("/v1/messages", "messages")):
            body = {"model": "avibe"} | ROUTES[path] | {name: [message]}
            error = client.post(path, json=body).json["error"]
            assert error["message"].startswith(f"{name}[0].{place} is not supported."), path
    assert avibe.submitted == []
    for empty in (None, [], {}, ""):
        message = {"role": "user", "content": [part | {field: empty}], field: empty}
        assert (
            client.post("/v1/messages", json={"model": "avibe"} | MESSAGE | {"messages": [message]}).status_code == 200
        )


@pytest.mark.parametrize("field", ["prefix", "partial"])
@pytest.mark.parametrize(
    ("path", "name", "instead"),
    [
        (CHAT, "messages", "Use continue_final_message of /v1/chat/completions."),
        ("/v1/responses", "input", "Use continue_final_message of /v1/chat/completions."),
        ("/v1/messages", "messages", "A message of the assistant at the end is continued without it."),
    ],
)
def test_what_asks_for_the_end_of_a_message_says_what_to_use_instead(client, path, name, instead, field):
    """Other services' marks of a message that is to be continued."""
    begun = {"role": "assistant", "content": "x", field: True}
    body = {"model": "avibe"} | ROUTES[path] | {name: [*HELLO, begun]}
    error = client.post(path, json=body).json["error"]
    assert error["message"].startswith(f"{name}[1].{field} must be false; other values are not supported. {instead}")


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_calls_of_a_chat_in_another_protocol_do_not_vanish(client, avibe, path):
    """A history that a program took from a chat is refused; the model would not see what it has called."""
    answer = {"role": "assistant", "content": "x", "tool_calls": [CALL]}
    name = "input" if path == "/v1/responses" else "messages"
    body = {"model": "avibe"} | ROUTES[path] | {name: [*HELLO, answer, *HELLO]}
    assert client.post(path, json=body).json["error"]["message"].startswith(f"{name}[1].tool_calls is not supported.")
    assert avibe.submitted == []


MARKS = {
    "strict": True,
    "index": 0,
    "id": "x",
    "metadata": {"a": 1},
    "title": "Look",
    "annotations": {"readOnlyHint": 1},
}
MARKS |= {"return": {"type": "string"}, "response": {"type": "object"}, "input_examples": [{}], "_meta": {"a": 1}}


@pytest.mark.parametrize("mark", MARKS)
def test_what_lists_of_tools_are_made_of_besides_is_passed_over(client, avibe, mark):
    """Beside the function and inside it, in every protocol: the model is shown the same."""
    avibe.tokens = LETTERS  # a strict function needs a grammar
    more = {mark: MARKS[mark]}
    flat = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    inside = FUNCTION | {"function": FUNCTION["function"] | more}
    schema = {"name": "look", "input_schema": {"type": "object"}}
    asked = [(CHAT, FUNCTION), (CHAT, FUNCTION | more), (CHAT, inside), ("/v1/responses", flat | more)]
    for path, tool in [*asked, ("/v1/messages", schema | more)]:
        response = client.post(path, json={"model": "avibe", "tools": [tool]} | ROUTES[path])
        assert response.status_code == 200, response.json
    assert all(request.prompt.tools == avibe.submitted[0].prompt.tools for request in avibe.submitted)


def test_a_result_may_have_an_image_in_every_protocol(client, avision, avibe):
    """In a chat too, whose other servers take it; a text says so to a model that reads none.

    A program whose tool has returned one would send it again with everything that follows.
    """
    image = {"type": "image_url", "image_url": {"url": URL}}
    result = {"role": "tool", "tool_call_id": "a", "content": [image]}
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert ask(client, model="avision", messages=[*HELLO, answer, result]).status_code == 200
    assert len(avision.only.prompt.images) == 1
    assert ask(client, messages=[*HELLO, answer, result]).status_code == 200
    assert "not read here" in str(avibe.only.prompt.messages[-1]["content"])
    message, param = refused(ask(client, messages=said(image)), 400, "validation_error")
    assert (message, param) == ("This model does not read images.", "messages[0].content[0].image_url.url")


def test_white_space_in_front_of_a_data_url_is_dropped(client, avision):
    """As browsers do with any address."""
    assert ask(client, model="avision", messages=said(image_part(f" \n{URL}\n"))).status_code == 200


SENT_BACK = [
    {"index": 0, "id": "msg_1", "object": "x", "created": 1, "status": "completed", "timestamp": "now"},
    {"reasoning": "Hm.", "reasoning_content": "Hm.", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
    {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}], "signature": "x"},
    {"provider_specific_fields": {"refusal": None}, "cache_control": {"type": "ephemeral"}, "annotations": [{"a": 1}]},
    {"refusal": None, "audio": None, "function_call": None, "parsed": {"a": 1}, "tool_calls": None, "name": None},
    {"additional_kwargs": {}, "response_metadata": {"a": 1}, "usage_metadata": {"input_tokens": 1}, "name": 5},
    {"logprobs": {"content": []}, "finish_reason": "stop", "token_ids": [1, 2], "context": {"citations": []}},
    {"images": [], "prefix": False, "experimental_attachments": [], "metadata": {"a": 1}},
]


@pytest.mark.parametrize("more", SENT_BACK, ids=named(SENT_BACK))
@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "An answer."},
        {"role": "assistant", "content": [{"type": "text", "text": "An answer."}], "tool_calls": [CALL]},
        {"role": "user", "content": "A question."},
        {"role": "system", "content": "Be short."},
        {"role": "tool", "content": "5", "tool_call_id": "a"},
    ],
    ids=["answer", "calls", "user", "system", "tool"],
)
def test_what_a_library_adds_to_its_messages_is_passed_over(client, avibe, message, more):
    """In every role; the message is what it is without it."""
    assert ask(client, messages=[message, *HELLO]).status_code == 200
    plain = avibe.submitted.pop()
    added = {name: value for name, value in more.items() if name not in message}
    assert ask(client, messages=[message | added, *HELLO]).status_code == 200
    assert avibe.only.prompt == plain.prompt


def test_what_a_library_adds_to_parts_and_calls_is_passed_over(client, avision, avibe):
    """Formats, ids and details of images, cache marks of texts, signatures and positions of calls."""
    more = {"cache_control": {"type": "ephemeral"}, "id": "x", "annotations": [], "uuid": "y", "format": "image/png"}
    for detail in ("low", "high", "auto", "original", None):
        part = {"type": "image_url", "image_url": {"url": URL, "detail": detail, "format": "image/png", **more}} | more
        assert (
            ask(client, model="avision", messages=said(part, {"type": "text", "text": "x"} | more)).status_code == 200
        )
    assert all(request.prompt == avision.submitted[0].prompt for request in avision.submitted)
    call = more | CALL | {"index": 0, "extra_content": {"google": {}}}
    call["function"] = CALL["function"] | {"parsed_arguments": {}, "provider_specific_fields": {}, "index": 0}
    said_before = {"role": "assistant", "content": None, "tool_calls": [call]}
    assert ask(client, messages=[*HELLO, said_before]).status_code == 200
    assert avibe.only.prompt.messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"role": "assistant"}, ""),
        ({"role": "assistant", "content": None}, ""),
        ({"role": "assistant", "content": ""}, ""),
        ({"role": "assistant", "content": []}, ""),
        ({"role": "assistant", "content": "x", "tool_calls": []}, "x"),
        ({"role": "assistant", "content": None, "refusal": "No."}, "No."),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}]}, ""),
        (
            {
                "role": "assistant",
                "content": [{"type": "reasoning", "text": "Hm."}, {"type": "output_text", "text": "x"}],
            },
            [{"type": "text", "text": "x"}],
        ),
        ({"role": "user", "content": [{"type": "input_text", "text": "x"}]}, [{"type": "text", "text": "x"}]),
        ({"role": "tool", "tool_call_id": "a"}, ""),
        ({"role": "tool", "name": "look", "content": "5"}, "5"),
        ({"role": "tool", "tool_call_id": None, "content": "5"}, "5"),
        ({"role": "tool", "tool_call_id": "a", "content": None}, ""),
        ({"role": "tool", "tool_call_id": "a", "content": []}, ""),
        ({"role": "function", "name": "look", "content": "5"}, "5"),
        ({"role": "function", "name": "look", "content": None}, ""),
        ({"role": "developer", "content": "Be short."}, "Be short."),
    ],
)
def test_contents_that_say_nothing_and_contents_by_other_names_are_read(client, avibe, message, content):
    """An empty answer is one; a part's or a role's other name means the same."""
    assert ask(client, messages=[*HELLO, message]).status_code == 200
    role = {"function": "tool", "developer": "system"}.get(message["role"], message["role"])
    shown = avibe.only.prompt.messages[1]
    assert (shown["role"], shown["content"]) == (role, content)
    assert "tool_calls" not in shown


@pytest.mark.parametrize(
    ("sent", "shown"), [({"a": "я"}, '{"a":"я"}'), ("", "{}"), (" ", "{}"), (None, "{}"), ('{"a": 1', '{"a": 1')]
)
def test_arguments_of_earlier_calls_are_a_text(client, avibe, sent, shown):
    """Whether sent as one or as an object; none at all are no arguments."""
    function = {"name": "look", "arguments": sent}
    for message in ({"tool_calls": [{"function": function}]}, {"function_call": function}):
        assert ask(client, messages=[*HELLO, {"role": "assistant"} | message]).status_code == 200
        (call,) = avibe.submitted.pop().prompt.messages[1]["tool_calls"]
        assert call["function"] == {"name": "look", "arguments": shown}


def test_an_image_is_read_from_a_plain_string_too(client, avision):
    """As some clients send it, and under the name of the newer interface."""
    for part in (image_part(), {"type": "image_url", "image_url": URL}, {"type": "input_image", "image_url": URL}):
        assert ask(client, model="avision", messages=said(part)).status_code == 200
    assert all(request.prompt == avision.submitted[0].prompt for request in avision.submitted)
    far = {"type": "image_url", "image_url": "https://example.com/a.png"}
    _, param = refused(ask(client, model="avision", messages=said(far)), 400, "validation_error")
    assert param == "messages[0].content[0].image_url"


SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, "response_format.json_schema.schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "a b", "schema": SCHEMA}},
            "response_format.json_schema.schema",
        ),
        ({"type": "json_schema", "schema": SCHEMA}, "response_format.schema"),
        ({"type": "json_schema", "name": "a", "strict": True, "schema": SCHEMA}, "response_format.schema"),
        ({"type": "json_object", "schema": SCHEMA}, "response_format.schema"),
    ],
)
def test_a_schema_is_enforced_wherever_clients_put_it(client, form, field):
    """Its name changes nothing; a refusal names its place."""
    models = client.application.extensions["services"].openai_models
    body = validated(models.chat, {"model": "avibe", "messages": HELLO, "response_format": form})
    assert answer_format(body.response_format) == AnswerFormat(field, schema=SCHEMA)


@pytest.mark.parametrize(
    ("sent", "usual"),
    [
        ("any", "required"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "function", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
    ],
)
def test_a_choice_of_tools_by_another_name_means_the_same(client, sent, usual):
    """As Mistral, Anthropic and the Responses API write it."""
    models = client.application.extensions["services"].openai_models
    body = {"model": "avibe", "messages": HELLO, "tools": [FUNCTION]}
    one, other = (validated(models.chat, body | {"tool_choice": choice}) for choice in (sent, usual))
    assert one.tool_choice == other.tool_choice


@pytest.mark.parametrize("fixed", [{"response_format": {"type": "json_object"}}, {"tool_choice": "required"}])
def test_an_effort_is_a_hint_where_the_answer_has_a_fixed_form(client, avibe, fixed):
    """Such an answer begins at once; with a free one, the effort lets the model reason."""
    tokens = (b"", *(bytes([number]) for number in range(256)))
    avibe.tokens = Vocabulary(tokens, frozenset({0}), lambda text: [byte + 1 for byte in text.encode()])
    avibe.text = "{}"
    tools = {"tools": [FUNCTION]} if "tool_choice" in fixed else {}
    assert ask(client, reasoning_effort="high", **tools).status_code == 200
    avibe.text = "{}"
    assert ask(client, reasoning_effort="high", **tools, **fixed).status_code == 200
    assert [request.prompt.thinking for request in avibe.submitted] == [True, False]


def test_a_result_may_have_a_document_in_every_protocol_of_openai(client, avibe):
    """A text says that it was not read; of a user it is refused by name, as is anything else."""
    file = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}
    result = {"role": "tool", "tool_call_id": "a", "content": [file]}
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert ask(client, messages=[*HELLO, answer, result]).status_code == 200
    called = {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_file", "file_data": "AAAA"}]}
    body = {"model": "avibe", "input": [{"role": "user", "content": "Hi"}, called, output]}
    assert client.post("/v1/responses", json=body).status_code == 200
    for asked in avibe.submitted:
        assert "only plain text" in str(asked.prompt.messages[-1]["content"])
    refused(ask(client, messages=said(file)), 400, "validation_error")
