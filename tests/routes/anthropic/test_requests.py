"""Requests of Anthropic's Messages API as what the model is given: prompts, sampling parameters, refusals by name."""

import base64

import pytest

from app_production import create_app
from models import ModelSet
from tests.fakes import ScriptedBackend, image_bytes
from tests.routes.chat.test_grammars import LETTERS

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}
PNG = base64.b64encode(image_bytes()).decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "the sea"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "It is blue."}
SHOWN_CALL = {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"the sea"}'}}
FORM = {"type": "json_schema", "schema": {"type": "object"}}
PLAIN = {"type": "text", "data": "Waves."}
FOUND = {"type": "search_result", "title": "Sea", "source": "a.b", "content": [{"type": "text", "text": "Wet."}]}
CACHE = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def text(said, **more):
    return {"type": "text", "text": said, **more}


def document(source, **more):
    return {"type": "document", "source": source, **more}


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def encoded(data):
    """Return an image block of these bytes."""
    return IMAGE | {"source": IMAGE["source"] | {"data": base64.b64encode(data).decode()}}


def ask(client, path=MESSAGES, **fields):
    body = {"model": "avibe", "messages": HELLO} | ({"max_tokens": 8} if path == MESSAGES else {})
    return client.post(path, json=body | fields)


def accepted(client, backend, **fields):
    """Send a request; return what was submitted for it."""
    response = ask(client, **fields)
    assert response.status_code == 200, response.json
    return backend.submitted[-1]


def refused(client, status=400, kind="invalid_request_error", path=MESSAGES, **fields):
    """Send a request that is refused; return its message."""
    response = ask(client, path, **fields)
    assert (response.status_code, response.json["error"]["type"]) == (status, kind), response.json
    assert response.json["request_id"] == response.headers["request-id"] == response.headers["X-Request-ID"]
    return response.json["error"]["message"]


def said(client, backend, messages, **fields):
    """Return the messages that the chat template is given."""
    return list(accepted(client, backend, messages=messages, **fields).prompt.messages)


def test_a_text_reaches_the_model(client, avibe):
    """A string and one text block are the same."""
    assert said(client, avibe, HELLO) == HELLO
    assert said(client, avibe, [user(text("Hello", **CACHE))]) == HELLO


def test_instructions_are_the_first_message(client, avibe):
    """As a string, as blocks, and as messages of the system, wherever those stand."""
    system = {"role": "system", "content": "Be brief.\nBe kind."}
    for given in ("Be brief.\nBe kind.", [text("Be brief.", **CACHE), text("Be kind.")]):
        assert said(client, avibe, HELLO, system=given) == [system, *HELLO]
    begins = [{"role": "system", "content": "Be kind."}, *HELLO]
    assert said(client, avibe, begins, system="Be brief.") == [system, *HELLO]
    ends = [*HELLO, {"role": "system", "content": [text("Stop.")]}]
    assert said(client, avibe, ends) == [*HELLO, {"role": "system", "content": "Stop."}]


def test_messages_of_one_role_are_one_message(client, avibe):
    """The user's and the assistant's alike, strings and blocks."""
    spoken = [
        *HELLO,
        user(text("again"), text("and again")),
        {"role": "assistant", "content": "Yes?"},
        assistant(text("I hear.")),
        *HELLO,
    ]
    assert said(client, avibe, spoken) == [
        {"role": "user", "content": "Hello\nagain\nand again"},
        {"role": "assistant", "content": "Yes?\nI hear."},
        {"role": "user", "content": "Hello"},
    ]


def test_an_earlier_answer_comes_back_as_it_was_sent(client, avibe):
    """Reasoning is passed over, and so are the fields that clients keep of an answer; an empty answer is one."""
    answer = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "avibe",
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 3},
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            text("I look.", citations=None),
            CALL | {"caller": {"type": "direct"}} | CACHE,
        ],
    }
    assert said(client, avibe, [*HELLO, answer, user(RESULT)]) == [
        *HELLO,
        {"role": "assistant", "content": "I look.", "tool_calls": [SHOWN_CALL]},
        {"role": "tool", "content": "It is blue.", "tool_call_id": "toolu_1"},
    ]
    assert said(client, avibe, [*HELLO, assistant(), *HELLO])[1] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("It is blue.", "It is blue."),
        ([text("It is blue.", **CACHE), text("It is wide.")], "It is blue.\nIt is wide."),
        ([], ""),
        (None, ""),
        ([document(PLAIN, title="Sea")], "Sea\nWaves."),
        ([document(PLAIN, citations={"enabled": False}), FOUND | {"citations": None}], "Waves.\nSea\na.b\nWet."),
        ([FOUND], "Sea\na.b\nWet."),
        ([text("Wet.", citations=[{"type": "char_location", "cited_text": "Wet."}])], "Wet."),
    ],
)
def test_results_of_calls_are_texts(client, avibe, content, shown):
    """Of every form, each as a message of the tool before what the user says; a failed one says so."""
    for failed in (False, True):
        result = RESULT | {"content": content, "is_error": failed}
        messages = said(client, avibe, [*HELLO, assistant(CALL), user(result, text("And?"))])
        assert messages[2:] == [
            {"role": "tool", "content": f"Error:\n{shown}" if failed else shown, "tool_call_id": "toolu_1"},
            {"role": "user", "content": "And?"},
        ]


def test_results_are_put_in_the_order_of_their_calls(client, avibe):
    """A program sends them as the calls end, in one message or several; templates show no ids."""
    calls = assistant(*(CALL | {"id": call} for call in "ab"))
    results = [RESULT | {"tool_use_id": call, "content": f"of {call}"} for call in "ba"]
    for sent in ([user(*results)], [user(results[0]), user(results[1], text("And now?"))]):
        messages = said(client, avibe, [*HELLO, calls, *sent])
        assert [message["content"] for message in messages[2:4]] == ["of a", "of b"]


def test_images_reach_the_model_in_order(client, avision):
    """Texts that follow each other are one."""
    request = accepted(client, avision, model="avision", messages=[user(text("This"), text("one:"), IMAGE, text("?"))])
    parts = [{"type": "text", "text": "This\none:"}, {"type": "image"}, {"type": "text", "text": "?"}]
    assert request.prompt.messages[0]["content"] == parts
    assert [(image.width, image.height) for image in request.prompt.images] == [(64, 48)]


def test_results_and_documents_may_hold_images(settings, machine):
    """Where they stand, for a model whose template has tools and for one that has none."""
    second = {"type": "tool_result", "tool_use_id": "toolu_2", "content": [IMAGE]}
    paper = document({"type": "content", "content": [text("b"), IMAGE]})
    for tools, roles in ((True, ["tool", "tool", "user"]), (False, ["user", "user", "user"])):
        avision = ScriptedBackend("avision", tools=tools)
        client = create_app(settings, ModelSet({"avision": avision}), machine).test_client()
        messages = [user(RESULT | {"content": [text("a"), IMAGE]}, second, paper)]
        prompt = accepted(client, avision, model="avision", messages=messages).prompt
        assert [message["role"] for message in prompt.messages] == roles
        kinds = [[part["type"] for part in message["content"]] for message in prompt.messages]
        assert [kind.count("image") for kind in kinds] == [1, 1, 1]
        assert len(prompt.images) == 3


def test_a_message_of_the_assistant_at_the_end_is_continued(client, avibe):
    """Its text is the beginning of the answer, to the last character."""
    request = accepted(client, avibe, messages=[*HELLO, {"role": "assistant", "content": "The answer is ( "}])
    assert request.prompt.continues
    assert request.prompt.messages[-1] == {"role": "assistant", "content": "The answer is ( "}
    assert not accepted(client, avibe).prompt.continues


def test_sampling_fields_are_the_models(client, avibe):
    """All that there are; absent ones are the checkpoint's."""
    fields = {"temperature": 0.25, "top_p": 0.5, "top_k": 7, "stop_sequences": ["END", "\n\n"]}
    sampling = accepted(client, avibe, **fields).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 7)
    assert (sampling.max_tokens, sampling.stop) == (8, ("END", "\n\n"))
    assert accepted(client, avibe, temperature=2).sampling.temperature == 2


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        (None, True),
        ({"type": "auto"}, True),
        ({"type": "auto", "disable_parallel_tool_use": False}, True),
        ({"type": "none"}, False),
    ],
)
def test_tools_are_shown_to_the_model(client, avibe, choice, shown):
    """As a chat template takes them; hints of a tool are passed over."""
    avibe.tokens = LETTERS
    tool = TOOL | CACHE | {"type": "custom", "strict": True, "eager_input_streaming": True, "input_examples": [{}]}
    prompt = accepted(client, avibe, tools=[tool], tool_choice=choice).prompt
    function = {"name": "look", "description": "Looks.", "parameters": TOOL["input_schema"]}
    assert list(prompt.tools) == ([{"type": "function", "function": function}] if shown else [])


def test_a_free_choice_needs_no_tools(client, avibe):
    """Some clients always send it."""
    assert accepted(client, avibe, tool_choice={"type": "auto"}).prompt.tools == ()
    assert accepted(client, avibe, tools=[], tool_choice={"type": "none"}).prompt.tools == ()


@pytest.mark.parametrize(
    ("thinking", "switch"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "enabled", "budget_tokens": 1024, "display": "summarized"}, True),
        ({"type": "adaptive"}, True),
        ({"type": "between_tools"}, True),
        ({"type": "disabled"}, False),
        (None, False),
    ],
)
def test_thinking_is_a_switch(client, avibe, thinking, switch):
    """The budget is passed over."""
    assert accepted(client, avibe, thinking=thinking).prompt.thinking is switch


def test_thinking_gives_way_to_an_answer_that_has_begun(client, avibe):
    """Where the model decides; where it has to reason, both contradict each other."""
    begun = [*HELLO, {"role": "assistant", "content": "Well"}]
    assert not accepted(client, avibe, messages=begun, thinking={"type": "adaptive"}).prompt.thinking
    assert "thinking" in refused(client, messages=begun, thinking={"type": "enabled", "budget_tokens": 2048})


def test_thinking_stands_in_front_of_a_form_where_it_is_asked_for(client, avibe):
    """As Anthropic's own client asks for a model of pydantic; a forced call has no room for it."""
    avibe.tokens = LETTERS
    enabled = {"type": "enabled", "budget_tokens": 1024}
    for form in ({"output_config": {"format": FORM}}, {"output_format": FORM}):
        avibe.text = '<think>\nHm.\n</think>\n\n{"a": "<think>"}'
        body = ask(client, thinking=enabled, **form).json
        assert [block["type"] for block in body["content"]] == ["thinking", "text"]
        assert body["content"][1]["text"] == '{"a": "<think>"}'
        avibe.text = "{}"
        assert not accepted(client, avibe, thinking={"type": "adaptive"}, **form).prompt.thinking
    assert "thinking" in refused(client, thinking=enabled, tools=[TOOL], tool_choice={"type": "any"})


PASSED_OVER = {
    "metadata": {"user_id": "u"},
    "service_tier": "auto",
    "cache_control": {"type": "ephemeral"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
    "diagnostics": {"previous_message_id": None},
    "inference_geo": "eu",
    "speed": "fast",
    "output_config": {"effort": "high", "task_budget": {"type": "tokens", "total": 9}, "format": None, "other": None},
    "thinking": {"type": "disabled", "budget_tokens": 1024, "block_binding": {"type": "all"}},
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": False, "cache_control": {"type": "ephemeral"}},
    "anthropic_version": "bedrock-2023-05-31",
    "anthropic_beta": ["a"],
    "betas": ["a"],
    "container": None,
    "mcp_servers": [],
    "system": None,
    "tools": None,
    "stop_sequences": None,
    "stream": None,
}


def test_what_changes_no_answer_is_passed_over(client, avibe):
    """Hints, and null for whatever is optional."""
    plain, hinted = accepted(client, avibe), accepted(client, avibe, **PASSED_OVER)
    assert (hinted.prompt, hinted.sampling) == (plain.prompt, plain.sampling)


def test_headers_of_anthropics_clients_are_accepted(client):
    """The key, the version and the betas; and the query that asks for betas."""
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}
    body = {"model": "avibe", "messages": HELLO}
    assert client.post(f"{COUNT}?beta=true", json=body, headers=headers).status_code == 200
    assert client.post(f"{MESSAGES}?beta=true", json=body | {"max_tokens": 8}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": None}, "max_tokens is required"),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages is required"),
        ({"model": None}, "model is required"),
        ({"temperature": 2.5}, "temperature must be a number from 0 to 2"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop_sequences": "a"}, "stop_sequences"),
        ({"stream": 1}, "stream"),
        ({"wrong": 1}, "Unknown field: wrong"),
        ({"container": "c"}, "container is not supported. This service runs no code."),
        ({"mcp_servers": [{"name": "a"}]}, "mcp_servers is not supported. This service calls no other servers."),
        ({"n": 2}, "n must be 1; other values"),
        ({"frequency_penalty": 1}, "frequency_penalty must be 0; other values"),
        ({"stop": ["a"]}, "stop is not supported. Use stop_sequences."),
        (
            {"context_management": {"edits": [{"type": "clear"}, {"pause_after_compaction": True}]}},
            "context_management.edits.pause_after_compaction must be false",
        ),
        ({"fallbacks": [{"model": "avision"}]}, "fallbacks is not supported"),
        ({"thread": {"id": "t"}}, "thread is not supported. Send the whole conversation."),
        ({"thinking": {"type": "often"}}, "thinking.type"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system[0].type must be text"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content is required"),
        ({"messages": [user()]}, "messages[0].content must be a list of at least 1"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text is required"),
        ({"messages": [user(CALL)]}, "messages[0].content[0] must be an object whose type is"),
        ({"messages": [*HELLO, assistant(RESULT)]}, "messages[1].content[0]"),
        ({"messages": [*HELLO, assistant(CALL | {"input": 5})]}, "messages[1].content[0].input"),
        ({"messages": [*HELLO, assistant(CALL)]}, "messages[1].content has a tool_use without"),
        ({"messages": [user({"type": "server_tool_use", "id": "a"})]}, "messages[0].content[0]"),
        ({"messages": [user(RESULT | {"content": [{"type": "tool_reference"}]})]}, "content[0].content[0]"),
        ({"messages": [user(RESULT | {"content": [text(5)]})]}, "messages[0].content[0].content[0].text"),
        ({"tools": [TOOL, TOOL]}, "tools has two functions of one name"),
        ({"tools": [TOOL | {"name": "a b"}]}, "tools[0].name"),
        ({"tools": [{"name": "look"}]}, "tools[0].input_schema is required"),
        ({"tools": [TOOL, {"type": "web_search_20250305", "name": "a"}]}, "tools[1].type: web_search_20250305 is not"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type: bash_20250124 is not"),
        ({"tool_choice": {"type": "any"}}, "tool_choice needs tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "b"}}, "tool_choice names a function"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name is required"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "auto", "mode": "x"}}, "Unknown field: tool_choice.mode"),
        ({"tools": [TOOL], "tool_choice": {"type": "none", "name": "look"}}, "Unknown field: tool_choice.name"),
        ({"thinking": {"type": "disabled", "depth": 3}}, "Unknown field: thinking.depth"),
        ({"output_config": {"language": "ru"}}, "Unknown field: output_config.language"),
        ({"output_config": {"format": FORM | {"lark": "a"}}}, "Unknown field: output_config.format.lark"),
        ({"output_format": FORM | {"lark": "a"}}, "Unknown field: output_format.lark"),
        (
            {"messages": [user(document(PLAIN, citations={"enabled": True}))]},
            "messages[0].content[0].citations must be",
        ),
        (
            {"messages": [user(FOUND | {"citations": {"enabled": True}})]},
            "other values are not supported. This service",
        ),
        ({"output_config": {"format": {"type": "json"}}}, "output_config.format.type must be json_schema"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema is required"),
    ],
)
def test_a_mistake_is_named(client, fields, named):
    """With the path of the field, in Anthropic's shape."""
    assert named in refused(client, **fields)


@pytest.mark.parametrize(
    ("source", "path"),
    [({"type": "url", "url": "https://a.example/a.png"}, "url"), ({"type": "file", "file_id": "file_1"}, "file_id")],
)
def test_images_from_elsewhere_are_refused_by_name(client, source, path):
    """Nothing is fetched, and no file is kept."""
    message = refused(client, model="avision", messages=[user({"type": "image", "source": source})])
    assert message.startswith(f"messages[0].content[0].source.{path}: ")


@pytest.mark.parametrize(
    "source",
    [
        {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
        {"type": "url", "url": "https://a.example/a.pdf"},
        {"type": "file", "file_id": "file_1"},
    ],
)
def test_documents_other_than_texts_are_refused_by_name(client, source):
    """The refusal says which documents are read."""
    message = refused(client, messages=[user(document(source))])
    assert message == "messages[0].content[0].source: Of documents, only those of plain text are read here."


def test_images_are_held_to_the_rules_of_every_protocol(client):
    """A text model, base64 that is none, a damaged file, one too many, a file of another kind."""
    not_base64 = IMAGE | {"source": IMAGE["source"] | {"data": "%"}}
    assert "does not read images" in refused(client, messages=[user(IMAGE)])
    wrong = refused(client, model="avision", messages=[user(text("a"), not_base64)])
    assert wrong.startswith("messages[0].content[1].source.data: ")
    assert "damaged" in refused(client, model="avision", messages=[user(encoded(b"GIF89a"))])
    assert "at most 4 images" in refused(client, model="avision", messages=[user(*[IMAGE] * 5)])
    refused(client, status=415, model="avision", messages=[user(encoded(b"a text"))])


def test_the_media_type_is_passed_over(client, avision):
    """An image is known by its content."""
    image = IMAGE | {"source": IMAGE["source"] | {"media_type": "image/jpeg"}}
    assert accepted(client, avision, model="avision", messages=[user(image)]).prompt.images


def test_a_large_image_in_bare_base64_is_an_image(client, avision):
    """It counts as an image, not as text, whose bytes are bounded far below."""
    image = encoded(image_bytes(kind="BMP", size=(2000, 1500)))
    assert len(image["source"]["data"]) > 11_000_000
    assert accepted(client, avision, model="avision", messages=[user(image)]).prompt.images[0].width == 2000


def test_an_unknown_model_is_not_found(client):
    """Anthropic's own names too; the message lists the models that there are."""
    for path in (MESSAGES, COUNT):
        message = refused(client, 404, "not_found_error", path, model="claude-opus-4-1")
        assert message.endswith("The models are: avibe, avision.")


def test_a_schema_cannot_follow_a_beginning(client):
    """The answer would not begin with the schema's first character."""
    form = {"type": "json_schema", "schema": {"type": "object"}}
    begun = [*HELLO, {"role": "assistant", "content": "{"}]
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        assert "has begun" in refused(client, messages=begun, **fields)
    assert "contradict" in refused(client, output_config={"format": form}, output_format=form)


@pytest.mark.parametrize(
    "block",
    [
        IMAGE,
        {"type": "image", "source": {"type": "url", "url": "https://a.example/a.png"}},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        document({"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}),
        document({"type": "url", "url": "https://a.example/a.pdf"}),
    ],
)
def test_what_a_tool_returns_and_the_model_cannot_read_is_a_text(client, avibe, block):
    """An agent sends it again with all that follows; of a user it is refused."""
    messages = [*HELLO, assistant(CALL), user(RESULT | {"content": [text("Here:"), block]})]
    assert "not read here" in str(said(client, avibe, messages)[-1]) or "only plain text" in str(avibe.submitted[-1])
    refused(client, messages=[user(block)])


def deferred(name):
    """Return a tool that the model is told of later."""
    return TOOL | {"name": name, "defer_loading": True}


def test_deferred_tools_do_not_count_until_they_are_there(client, avibe):
    """A client's search may choose among hundreds of them; the model is told of 128 at most."""
    shown = [TOOL | {"name": f"own{number}"} for number in range(128)]
    tools = [*shown, *(deferred(f"other{number}") for number in range(896))]
    assert len(accepted(client, avibe, tools=tools).prompt.tools) == 128
    for beyond in ([*shown, TOOL | {"name": "one_more"}], [*tools, deferred("one_more")]):
        assert refused(client, tools=beyond).startswith("tools")
    messages = [*HELLO, assistant(CALL | {"name": "other0"}), user(RESULT)]
    assert "not deferred" in refused(client, tools=tools, messages=messages)


def test_deferred_tools_are_there_once_a_search_has_found_them(client, avibe):
    """As the client's search says, or an earlier call; the result reads as a text."""
    tools = [TOOL | {"name": "search"}, deferred("fetch"), deferred("write"), deferred("edit")]
    call, found = CALL | {"name": "search"}, {"type": "tool_reference", "tool_name": "fetch"}
    earlier = [assistant(CALL | {"id": "toolu_2", "name": "edit"}), user(RESULT | {"tool_use_id": "toolu_2"})]

    def shown(messages, **fields):
        prompt = accepted(client, avibe, messages=messages, tools=tools, **fields).prompt
        return [tool["function"]["name"] for tool in prompt.tools]

    assert shown(HELLO) == ["search"]
    assert shown([*HELLO, assistant(call), user(RESULT | {"content": [found]})]) == ["search", "fetch"]
    assert "fetch" in avibe.submitted[-1].prompt.messages[-1]["content"]
    assert shown([*HELLO, *earlier]) == ["search", "edit"]
    mistake = refused(client, messages=HELLO, tools=tools, tool_choice={"type": "tool", "name": "none"})
    assert "not among the tools" in mistake


def test_what_a_client_counts_its_sessions_by_is_no_instruction(client, avibe):
    """The block stands first and differs each time, so that no prompt would begin like another."""
    billing = text("x-anthropic-billing-header: cc_version=2.1.332.551; cc_entrypoint=cli")
    wanted = said(client, avibe, HELLO, system="Be brief.")
    assert said(client, avibe, HELLO, system=[billing, text("Be brief.")]) == wanted
    assert said(client, avibe, HELLO, system=[billing]) == HELLO


@pytest.mark.parametrize("system", ["", []])
def test_no_instructions_are_no_message(client, avibe, system):
    """As with null."""
    assert said(client, avibe, HELLO, system=system) == HELLO
