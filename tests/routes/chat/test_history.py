"""What stands before the new question, in each protocol: a note for what is not read, and never a refusal."""

import base64

import pytest

from routes.chat.conversation import UNREAD_DOCUMENT, UNREAD_IMAGE
from routes.chat.history import question_start
from tests.fakes import image_bytes

DATA = [base64.b64encode(image_bytes(size=(8 + side, 8))).decode() for side in range(6)]
BROKEN = base64.b64encode(image_bytes()[:60]).decode()  # with a good header
NO_IMAGE = base64.b64encode(b"Hello").decode()
AWAY = "https://example.com/a.png"
UNKNOWN = {"type": "hologram", "data": "x"}
NOTED = "[A part of the type hologram, which is not read here.]"


class Chat:
    path = "/v1/chat/completions"
    file = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}

    @staticmethod
    def image(data):
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    away = {"type": "image_url", "image_url": {"url": AWAY}}
    by_id = {"type": "input_image", "file_id": "file-1"}

    @staticmethod
    def user(*parts):
        return {"role": "user", "content": list(parts)}

    answer = {"role": "assistant", "content": "I see."}
    call = {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    }

    @staticmethod
    def result(*parts):
        return {"role": "tool", "tool_call_id": "c1", "content": list(parts)}

    @classmethod
    def body(cls, messages, model="avision"):
        return {"model": model, "messages": messages}


class Responses(Chat):
    path = "/v1/responses"
    file = {"type": "input_file", "file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}
    away = {"type": "input_image", "image_url": AWAY}
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}

    @staticmethod
    def image(data):
        return {"type": "input_image", "image_url": f"data:image/png;base64,{data}"}

    @staticmethod
    def result(*parts):
        return {"type": "function_call_output", "call_id": "c1", "output": list(parts)}

    @classmethod
    def body(cls, messages, model="avision"):
        return {"model": model, "input": messages}


class Messages(Chat):
    path = "/v1/messages"
    file = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}
    away = {"type": "image", "source": {"type": "url", "url": AWAY}}
    by_id = {"type": "image", "source": {"type": "file", "file_id": "file-1"}}
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {}}]}

    @staticmethod
    def image(data):
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}

    @staticmethod
    def result(*parts):
        return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": list(parts)}]}

    @classmethod
    def body(cls, messages, model="avision"):
        return {"model": model, "max_tokens": 8, "messages": messages}


each_protocol = pytest.mark.parametrize("protocol", [Chat, Responses, Messages])
ASKED = {"role": "user", "content": "And now?"}
LOOK = {"type": "text", "text": "Look."}
UNREAD = {
    "a file": (lambda protocol: protocol.file, UNREAD_DOCUMENT),
    "an image elsewhere": (lambda protocol: protocol.away, UNREAD_IMAGE),
    "an image by its id": (lambda protocol: protocol.by_id, UNREAD_IMAGE),
    "no image": (lambda protocol: protocol.image(NO_IMAGE), UNREAD_IMAGE),
    "a damaged image": (lambda protocol: protocol.image(BROKEN), UNREAD_IMAGE),
    "an unknown kind": (lambda protocol: UNKNOWN, NOTED),
}
each_unread = pytest.mark.parametrize("kind", UNREAD)


def read(client, backend, protocol, messages, model="avision"):
    """Send a conversation that is answered; return the prompt that the model was given."""
    answer = client.post(protocol.path, json=protocol.body(messages, model))
    assert answer.status_code == 200, answer.json
    return backend.submitted[-1].prompt


def sides(prompt):
    """Return which of DATA the images are."""
    sent = [base64.b64decode(data) for data in DATA]
    return [sent.index(image.data) for image in prompt.images]


@each_protocol
def test_a_conversation_of_one_image_a_turn_goes_on(client, avision, protocol):
    """Of six turns the newest four images are read, the older are notes in their positions."""
    turns = [[protocol.user(LOOK, protocol.image(data)), protocol.answer] for data in DATA]
    prompt = read(client, avision, protocol, [*sum(turns, [])[:-1]])
    assert sides(prompt) == [2, 3, 4, 5]
    asked = [message for message in prompt.messages if message["role"] == "user"]
    assert [UNREAD_IMAGE in str(message) for message in asked] == [True] * 2 + [False] * 4


def test_a_stored_conversation_of_one_image_a_turn_goes_on(client, avision):
    """The program that names a stored response cannot shorten what is in front of it."""
    last = {}
    for number, data in enumerate(DATA):
        body = Responses.body([Responses.user(Responses.image(data))]) | {"store": True} | last
        answer = client.post("/v1/responses", json=body)
        assert answer.status_code == 200, (number, answer.json)
        last = {"previous_response_id": answer.json["id"]}
    assert sides(avision.submitted[-1].prompt) == [2, 3, 4, 5]


def test_a_stored_conversation_goes_on_with_a_model_that_reads_no_images(client, avibe, avision):
    """Its images are notes."""
    first = client.post(
        "/v1/responses", json=Responses.body([Responses.user(Responses.image(DATA[0]))]) | {"store": True}
    )
    body = {"model": "avibe", "input": "And now?", "previous_response_id": first.json["id"]}
    assert client.post("/v1/responses", json=body).status_code == 200
    assert UNREAD_IMAGE in str(avibe.submitted[-1].prompt.messages)


@each_protocol
def test_a_conversation_goes_on_with_a_model_that_reads_no_images(client, avibe, protocol):
    """One click in a chat program changes the model and sends the same history."""
    history = [protocol.user(LOOK, protocol.image(DATA[0])), protocol.answer]
    prompt = read(client, avibe, protocol, [*history, ASKED], "avibe")
    assert not prompt.images
    assert UNREAD_IMAGE in str(prompt.messages[0])
    refused = client.post(protocol.path, json=protocol.body([*history, history[0]], "avibe"))
    assert (refused.status_code, "does not read images" in refused.text) == (400, True)


@each_protocol
@each_unread
def test_a_note_stands_for_what_is_not_read_in_an_earlier_turn(client, avision, protocol, kind):
    """And the rest of the turn is read."""
    part, note = UNREAD[kind]
    messages = [protocol.user(LOOK, part(protocol)), protocol.answer, ASKED]
    prompt = read(client, avision, protocol, messages)
    assert str(prompt.messages[0]).count(note) == 1
    assert "Look." in str(prompt.messages[0])


@each_protocol
@each_unread
def test_a_note_stands_for_what_is_not_read_in_a_result(client, avision, protocol, kind):
    """Though it is the newest message: an agent cannot take it back."""
    part, note = UNREAD[kind]
    messages = [ASKED, protocol.call, protocol.result(LOOK, part(protocol))]
    assert str(read(client, avision, protocol, messages).messages).count(note) == 1


@each_protocol
@pytest.mark.parametrize("kind", ["hologram", "server_tool_use", "web_search_tool_result", "image_url", "audio"])
def test_a_note_stands_for_what_is_not_read_in_an_answer(client, avision, protocol, kind):
    """As of another model, or of another service; the beginning of the new answer is continued word for word."""
    answer = {"role": "assistant", "content": [LOOK, {"type": kind, "id": "x", "content": [{}]}]}
    prompt = read(client, avision, protocol, [ASKED, answer, ASKED])
    note = UNREAD_IMAGE if "image" in kind else NOTED.replace("hologram", kind)
    assert str(prompt.messages[1]).count(note) == 1
    assert "Look." in str(prompt.messages[1])
    assert client.post(protocol.path, json=protocol.body([ASKED, answer])).status_code == 400


@each_protocol
def test_an_answer_may_be_nothing_but_what_is_not_read(client, avision, protocol):
    """A search that another service has run."""
    answer = {"role": "assistant", "content": [{"type": "server_tool_use", "id": "x", "name": "search", "input": {}}]}
    prompt = read(client, avision, protocol, [ASKED, answer, ASKED])
    assert "server_tool_use" in str(prompt.messages[1])


@pytest.mark.parametrize("protocol", [Chat, Responses])
def test_a_text_of_an_answer_is_one_in_a_question_and_in_a_result(client, avision, protocol):
    """Programs copy the parts of an answer."""
    copied = {"type": "output_text", "text": "Copied.", "annotations": []}
    for messages in ([protocol.user(copied)], [ASKED, protocol.call, protocol.result(copied)]):
        assert "Copied." in str(read(client, avision, protocol, messages).messages)


@each_protocol
@each_unread
@pytest.mark.parametrize("begun", [False, True])
def test_the_new_question_is_refused_by_name(client, protocol, kind, begun):
    """In front of the beginning of its answer too, and behind an earlier one."""
    part, _ = UNREAD[kind]
    messages = [ASKED, protocol.answer, protocol.user(LOOK, part(protocol)), *[protocol.answer] * begun]
    refused = client.post(protocol.path, json=protocol.body(messages))
    assert refused.status_code in (400, 415), refused.json
    assert kind == "a damaged image" or "[2].content[1]" in refused.text


@each_protocol
def test_a_question_of_more_images_than_are_read_is_refused(client, avision, protocol):
    """In one message or in two that follow each other; as many as are read take the place of all earlier ones."""
    images = [protocol.image(data) for data in DATA]
    history = [protocol.user(images[5]), protocol.answer]
    assert sides(read(client, avision, protocol, [*history, protocol.user(*images[:4])])) == [0, 1, 2, 3]
    for asked in ([protocol.user(*images[:5])], [protocol.user(*images[:3]), protocol.user(*images[3:])]):
        refused = client.post(protocol.path, json=protocol.body([*history, *asked]))
        assert (refused.status_code, "at most 4 images" in refused.text) == (400, True)


@each_protocol
def test_the_image_that_an_agent_was_asked_about_stays(client, avision, protocol):
    """Of the results that follow it, the oldest give way."""
    results = [[protocol.call, protocol.result(protocol.image(data))] for data in DATA[1:]]
    prompt = read(client, avision, protocol, [protocol.user(protocol.image(DATA[0])), *sum(results, [])])
    assert sides(prompt) == [0, 3, 4, 5]


def test_instructions_among_the_results_leave_the_image_that_an_agent_was_asked_about(client, avision):
    """They are no message of the user."""
    reminder = {"role": "system", "content": "Be brief."}
    results = [[Chat.call, Chat.result(Chat.image(data)), reminder] for data in DATA[1:]]
    messages = [Chat.user(Chat.image(DATA[0])), *sum(results, [])]
    assert sides(read(client, avision, Chat, messages)) == [0, 3, 4, 5]


@each_protocol
def test_what_a_tool_has_shown_last_stays_once_the_user_asks_on(client, avision, protocol):
    """The images of a question do not give way before its turn is over; then the oldest do, wherever they are of."""
    images = [protocol.image(data) for data in DATA]
    turn = [protocol.user(*images[:4]), protocol.call, protocol.result(images[4])]
    assert sides(read(client, avision, protocol, turn)) == [0, 1, 2, 3]
    turn += [protocol.answer]
    assert sides(read(client, avision, protocol, [*turn, ASKED])) == [1, 2, 3, 4]
    assert sides(read(client, avision, protocol, [*turn, protocol.user(images[5])])) == [2, 3, 4, 5]


def test_only_the_images_that_are_read_reach_the_model(client, avision):
    """Of a hundred turns: no other is decoded."""
    turns = [[Chat.user(Chat.image(DATA[0])), Chat.answer] for _ in range(100)]
    prompt = read(client, avision, Chat, [*sum(turns, []), ASKED])
    assert len(prompt.images) == str(prompt.messages).count("'image'") == 4


@each_protocol
def test_an_earlier_turn_may_be_empty(client, avision, protocol):
    """Programs have sent such; the new question is to have something."""
    empty = protocol.user()
    read(client, avision, protocol, [empty, protocol.answer, ASKED])
    refused = client.post(protocol.path, json=protocol.body([ASKED, protocol.answer, empty]))
    assert (refused.status_code, "a list of at least 1" in refused.text) == (400, True)


@pytest.mark.parametrize("protocol", [Chat, Responses])
def test_a_result_may_have_an_image_of_other_protocols(client, avision, protocol):
    """As tools of MCP return them."""
    found = {"type": "image", "data": DATA[0], "mimeType": "image/png"}
    messages = [ASKED, protocol.call, protocol.result(found)]
    assert UNREAD_IMAGE in str(read(client, avision, protocol, messages).messages)


@pytest.mark.parametrize("part", [5, {}, {"type": 5}, {"type": "text"}])
@each_protocol
def test_what_is_no_part_is_refused_wherever_it_stands(client, protocol, part):
    """Notes are for what programs send on, not for mistakes."""
    for messages in (
        [protocol.user(part), protocol.answer, ASKED],
        [ASKED, protocol.call, protocol.result(part), protocol.answer, ASKED],
    ):
        assert client.post(protocol.path, json=protocol.body(messages)).status_code == 400


@pytest.mark.parametrize("wish", [True, 1])
def test_a_wish_to_cite_is_passed_over_in_results_and_earlier_turns(client, avision, wish):
    """Anthropic's documentation has tools return results with it, and a client sends on what it has sent."""
    cited = {"citations": {"enabled": wish}}
    waves = {"type": "document", "source": {"type": "text", "data": "Waves."}, **cited}
    found = {"type": "search_result", "title": "Sea", "source": "a.b", "content": [{"type": "text", "text": "Wet."}]}
    blocks = [waves, found | cited]
    for messages in (
        [ASKED, Messages.call, Messages.result(*blocks)],
        [Messages.user(*blocks), Messages.answer, ASKED],
    ):
        assert "Waves.\\nSea\\na.b\\nWet." in str(read(client, avision, Messages, messages).messages)
    refused = client.post("/v1/messages", json=Messages.body([ASKED, Messages.answer, Messages.user(*blocks)]))
    assert (refused.status_code, "messages[2].content[0].citations" in refused.text) == (400, True)


def test_an_image_within_an_earlier_document_is_a_note(client, avision):
    """Where it is at another address."""
    source = {"type": "content", "content": [{"type": "text", "text": "Waves."}, Messages.away]}
    messages = [Messages.user({"type": "document", "source": source}), Messages.answer, ASKED]
    shown = str(read(client, avision, Messages, messages).messages[0])
    assert "Waves." in shown
    assert UNREAD_IMAGE in shown


@pytest.mark.parametrize(
    ("messages", "start"),
    [("", 0), ("q", 0), ("a", 0), ("qa", 0), ("qaq", 2), ("aqq", 1), ("ar", 2), ("arq", 3), ("arqa", 3), ("araq", 3)]
    + [("raqa", 2), ("arqaq", 4)],
)
def test_the_new_question_begins_behind_the_last_answer_that_something_follows(messages, start):
    """An answer at the end is to be continued; what follows results belongs to them. By the first letter of each."""
    assert question_start([one == "a" for one in messages], [one == "r" for one in messages]) == start


@each_protocol
@each_unread
def test_a_note_stands_for_what_a_program_sends_behind_a_result(client, avision, protocol, kind):
    """As in a message of the user, since the results of some programs are texts alone; it is sent again each time."""
    part, note = UNREAD[kind]
    messages = [ASKED, protocol.call, protocol.result(LOOK), protocol.user(LOOK, part(protocol))]
    assert str(read(client, avision, protocol, messages).messages).count(note) == 1
    images = protocol.user(*map(protocol.image, DATA))
    assert sides(read(client, avision, protocol, [*messages[:3], images])) == [0, 1, 2, 3]


def test_a_block_beside_a_result_is_read_as_one_of_it(client, avision):
    """As of a file that an agent has read."""
    result = Messages.result(LOOK)
    result["content"].append(Messages.file)
    assert UNREAD_DOCUMENT in str(read(client, avision, Messages, [ASKED, Messages.call, result]).messages)


@pytest.mark.parametrize("image", [{}, {"url": None}, {"url": 5}, None, 5])
@pytest.mark.parametrize("protocol", [Chat, Responses])
def test_a_note_stands_for_an_image_without_any(client, avision, protocol, image):
    """In the past."""
    part = {"type": "image_url" if protocol is Chat else "input_image", "image_url": image}
    for messages in (
        [protocol.user(LOOK, part), protocol.answer, ASKED],
        [ASKED, protocol.call, protocol.result(part)],
    ):
        assert str(read(client, avision, protocol, messages).messages).count(UNREAD_IMAGE) == 1


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "base64"}},
        {"type": "document", "source": {"type": "text", "data": None}},
        {"type": "document", "source": {"type": "content", "content": None}},
        {"type": "search_result", "title": "a", "source": "b", "content": [Messages.image(DATA[0])]},
        {"type": "search_result", "title": "a", "source": "b", "content": None},
    ],
)
def test_a_note_stands_for_a_block_without_its_content(client, avision, block):
    """In the past."""
    for messages in (
        [Messages.user(LOOK, block), Messages.answer, ASKED],
        [ASKED, Messages.call, Messages.result(block)],
    ):
        assert "read here.]" in str(read(client, avision, Messages, messages).messages)


def test_a_search_result_needs_no_title_in_the_past(client, avision):
    """Some pages have none."""
    block = {"type": "search_result", "title": None, "content": [{"type": "text", "text": "Wet."}]}
    assert "Wet." in str(read(client, avision, Messages, [ASKED, Messages.call, Messages.result(block)]).messages)


@each_protocol
@pytest.mark.parametrize("content", [{"content": None}, {}])
def test_an_earlier_turn_may_say_nothing(client, avision, protocol, content):
    """As an empty list does; the new question may not."""
    silent = {"role": "user", **content}
    read(client, avision, protocol, [silent, protocol.answer, ASKED])
    assert client.post(protocol.path, json=protocol.body([ASKED, protocol.answer, silent])).status_code == 400


@pytest.mark.parametrize(
    ("sent", "shown"),
    [({"a": 1}, '{"a":1}'), ('{"a": 1}', '{"a": 1}'), ('{"a": 1', '{"a": 1'), ("", "{}"), (None, "{}")],
)
def test_the_input_of_a_past_call_is_an_object_its_text_or_nothing(client, avibe, sent, shown):
    """As in the other protocols; and it needs no id, which no template reads."""
    call = {"role": "assistant", "content": [{"type": "tool_use", "name": "look", "input": sent}]}
    result = {"role": "user", "content": [{"type": "tool_result", "content": "Seen."}]}
    prompt = read(client, avibe, Messages, [ASKED, call, result], "avibe")
    assert prompt.messages[1]["tool_calls"][0]["function"]["arguments"] == shown
