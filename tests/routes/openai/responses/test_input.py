"""The items of an input, as they reach the chat template."""

import base64

import pytest

from tests.fakes import image_bytes

URL = f"data:image/png;base64,{base64.b64encode(image_bytes()).decode()}"
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "found"}
SHOWN = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def sent(respond, avibe, items, **fields):
    """Return the messages that the model gets for these items."""
    respond(input=items, **fields)
    return list(avibe.submitted[-1].prompt.messages)


def texts(*parts):
    """Return parts of a text as a chat template takes them."""
    return [{"type": "text", "text": part} for part in parts]


def test_a_text_is_a_message_of_the_user(respond, avibe):
    """Instructions come before it as the system's."""
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}
    assert sent(respond, avibe, "Hello") == [user]
    assert sent(respond, avibe, "Hello", instructions="Be brief.") == [system, user]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_may_be_items(respond, avibe, role):
    """Both names of the role, a text or parts; the type of a message may be left out."""
    items = [
        {"role": role, "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
    ]
    assert sent(respond, avibe, items) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": texts("Hello")},
    ]


def test_an_answer_that_is_sent_back_is_read(respond, avibe):
    """As the client's own objects serialize it: ids, statuses, annotations and log probabilities are history."""
    first = respond(include=["message.output_text.logprobs"])
    items = [
        {"role": "user", "content": "Hello"},
        *(item.model_dump() for item in first.output),
        {"role": "user", "content": "Shorter!"},
    ]
    assert sent(respond, avibe, items)[1] == {"role": "assistant", "content": texts("An answer.")}


def test_an_answer_may_have_the_parts_of_an_input(respond, avibe):
    """n8n writes `input_text` for every role, as the client's own type of a message has it."""
    items = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "input_text", "text": "An answer."}]},
        {"role": "user", "content": "Shorter!"},
    ]
    assert sent(respond, avibe, items)[1] == {"role": "assistant", "content": texts("An answer.")}


def test_the_calls_behind_an_answer_belong_to_it(respond, avibe):
    """One message with its text and its calls, then one for each result; reasoning between them is passed over."""
    items = [
        {"role": "user", "content": "Look twice."},
        {"type": "message", "role": "assistant", "content": "Well.", "phase": "commentary"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        CALL | {"id": "fc_1", "status": "completed"},
        CALL | {"call_id": "c2"},
        RESULT,
        RESULT | {"call_id": "c2", "output": [{"type": "input_text", "text": "nothing"}]},
        CALL | {"call_id": "c3"},
        RESULT | {"call_id": "c3"},
    ]
    assert sent(respond, avibe, items)[1:] == [
        {"role": "assistant", "content": "Well.", "tool_calls": [SHOWN, SHOWN | {"id": "c2"}]},
        {"role": "tool", "content": "found", "tool_call_id": "c1"},
        {"role": "tool", "content": texts("nothing"), "tool_call_id": "c2"},
        {"role": "assistant", "content": "", "tool_calls": [SHOWN | {"id": "c3"}]},
        {"role": "tool", "content": "found", "tool_call_id": "c3"},
    ]


def test_results_are_put_in_the_order_of_their_calls(respond, avibe):
    """A program sends them as the calls end; templates show no ids."""
    items = [
        {"role": "user", "content": "Look twice."},
        *(CALL | {"call_id": call} for call in ("c1", "c2")),
        *(RESULT | {"call_id": call, "output": f"of {call}"} for call in ("c2", "c1")),
    ]
    assert [message["content"] for message in sent(respond, avibe, items)[2:]] == ["of c1", "of c2"]


def test_two_answers_in_a_row_stay_two(respond, avibe):
    """Nothing is merged but an answer and its calls; a refusal is what was said."""
    items = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ]
    assert sent(respond, avibe, items)[1:] == [
        {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": texts("No.")},
    ]


def test_images_are_read_from_data_urls(respond, avision):
    """In order; hints about their detail change nothing."""
    parts = [
        {"type": "input_image", "image_url": URL, "detail": "low"},
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": URL, "file_id": None},
    ]
    respond(model="avision", input=[{"role": "user", "content": parts}])
    prompt = avision.only.prompt
    assert [part["type"] for part in prompt.messages[0]["content"]] == ["image", "text", "image"]
    assert avision.decoded == [(64, 48), (64, 48)]


@pytest.mark.parametrize(("arguments", "shown"), [({"at": "я"}, '{"at":"я"}'), ("", "{}"), (None, "{}"), ({}, "{}")])
def test_arguments_of_earlier_calls_are_a_text(respond, avibe, arguments, shown):
    """Whether sent as one or as an object; none at all are no arguments. So it is in chats."""
    items = [CALL | {"arguments": arguments}, RESULT]
    assert sent(respond, avibe, items)[0]["tool_calls"] == [SHOWN | {"function": {"name": "look", "arguments": shown}}]


@pytest.mark.parametrize("output", [None, "", []])
def test_a_result_of_nothing_is_read(respond, avibe, output):
    """What a function that returns nothing leaves; an empty list has no parts for a template."""
    assert sent(respond, avibe, [CALL, RESULT | {"output": output}])[1]["content"] == ""


@pytest.mark.parametrize("content", [None, "", []])
def test_an_answer_of_calls_alone_has_no_text(respond, avibe, content):
    """Its message may be sent back without one."""
    items = [{"role": "assistant", "content": content}, CALL, RESULT]
    answer, result = sent(respond, avibe, items)
    assert answer == {"role": "assistant", "content": "", "tool_calls": [SHOWN]}
    assert result["role"] == "tool"
