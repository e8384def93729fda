"""Stored responses over HTTP: gone on from, shown, listed, deleted, and nobody else's."""

import base64
from dataclasses import replace

import openai
import pytest

from edge.services import KEY
from engine.errors import ModelError
from routes.openai.responses.store import KEPT_SECONDS, ResponseStore
from routes.services import services
from tests.fakes import Clock, image_bytes

PATH = "/v1/responses"
URL = f"data:image/png;base64,{base64.b64encode(image_bytes()).decode()}"
ELSEWHERE = {"environ_base": {"REMOTE_ADDR": "203.0.113.9"}}


def post(client, options=None, **fields):
    return client.post(PATH, json={"model": "avibe", "input": "Hello"} | fields, **(options or {}))


def test_a_response_goes_on_from_a_stored_one(respond, avibe):
    """The model gets the whole conversation; instructions are those of the last request."""
    first = respond(store=True, instructions="Be brief.")
    second = respond(store=True, input="More", previous_response_id=first.id, instructions="Be long.")
    respond(input=[{"role": "user", "content": "Again"}], previous_response_id=second.id)
    said = [(message["role"], message["content"]) for message in avibe.submitted[1].prompt.messages]
    answer = ("assistant", [{"type": "text", "text": "An answer."}])
    assert said == [
        ("system", "Be long."),
        ("user", [{"type": "text", "text": "Hello"}]),
        answer,
        ("user", "More"),
    ]
    assert [message["role"] for message in avibe.submitted[2].prompt.messages] == ["user", "assistant"] * 2 + ["user"]
    assert (second.previous_response_id, second.store) == (first.id, True)


def test_a_call_goes_on_with_its_result_alone(respond, avibe):
    """The call itself is in the stored response."""
    avibe.text = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    first = respond(store=True, tools=[tool])
    result = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": "found"}
    respond(input=[result], previous_response_id=first.id, tools=[tool])
    user, call, found = avibe.submitted[-1].prompt.messages
    assert call["tool_calls"][0]["id"] == found["tool_call_id"] == first.output[0].call_id


def test_images_are_stored_with_their_conversation(respond, avision):
    """And give way to those of the new question, which may have as many as are read."""
    parts = [{"type": "input_image", "image_url": URL}, {"type": "input_text", "text": "What is it?"}]
    first = respond(model="avision", store=True, input=[{"role": "user", "content": parts * 2}])
    respond(model="avision", input="And now?", previous_response_id=first.id)
    assert len(avision.submitted[-1].prompt.images) == 2
    respond(model="avision", input=[{"role": "user", "content": parts * 3}], previous_response_id=first.id)
    assert [image.param for image in avision.submitted[-1].prompt.images] == [
        "previous_response_id",
        *(f"input[0].content[{index}].image_url" for index in (0, 2, 4)),
    ]
    with pytest.raises(openai.BadRequestError, match="at most 4") as caught:
        respond(model="avision", input=[{"role": "user", "content": parts * 5}], previous_response_id=first.id)
    assert caught.value.param == "input[0].content[8].image_url"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stored_response_is_shown_as_it_was_sent(api, respond, stream):
    """Streamed or whole; its id can be used as soon as it is known to be complete."""
    sent = respond(store=True, stream=stream)
    if stream:
        sent = list(sent)[-1].response
    assert api.responses.retrieve(sent.id) == sent


def test_the_items_of_its_input_are_listed(api, respond):
    """The newest first, in pages, each with an id; those that it goes on from too."""
    first = respond(store=True, input=[{"role": "user", "content": f"{number}"} for number in range(3)])
    second = respond(store=True, input="Last", previous_response_id=first.id)
    listed = list(api.responses.input_items.list(second.id, limit=2))
    assert [item.content[0].text for item in listed] == ["Last", "An answer.", "2", "1", "0"]
    assert len({item.id for item in listed}) == 5
    page = api.responses.input_items.list(second.id, order="asc", limit=2, after=listed[-1].id)
    assert [item.content[0].text for item in page.data] == ["1", "2"]
    assert page.has_more
    for wrong in ({"limit": 101}, {"limit": "x"}, {"order": "up"}, {"after": "msg_unknown"}):
        with pytest.raises(openai.BadRequestError) as caught:
            api.responses.input_items.list(second.id, extra_query=wrong)
        assert caught.value.param == next(iter(wrong))


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_of_a_long_conversation_join_to_all_of_it(respond, client, order):
    """Whatever the size of a page, and although texts and calls name the ids of others."""
    items = [{"role": "user", "content": f'{number} "id":"fc_{number + 1}"'} for number in range(150)]
    call = {"type": "function_call", "name": "look", "arguments": '{"id":"fc_70"}'}
    items[69:69] = [call | {"call_id": f"c{number}", "id": f"fc_{number}"} for number in (69, 70, 71)]
    made = respond(store=True, input=items)
    whole = client.get(f"{PATH}/{made.id}/input_items?order={order}&limit=100").json["data"]
    whole += client.get(f"{PATH}/{made.id}/input_items?order={order}&limit=100&after={whole[-1]['id']}").json["data"]
    assert len(whole) == 153
    for limit in (1, 63, 64, 65, 100):
        for index in (0, 1, 62, 63, 64, 69, 70, 71, 127, 128, 150, 151, 152):
            query = {"order": order, "limit": limit, "after": whole[index]["id"]}
            page = client.get(f"{PATH}/{made.id}/input_items", query_string=query).json
            assert page["data"] == whole[index + 1 : index + 1 + limit]
            assert page["has_more"] is (index + 1 + limit < 153)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_is_read_without_the_rest_of_the_conversation(respond, client, monkeypatch, order):
    """Wherever it begins; an unknown id is refused with nothing read."""
    first = respond(store=True, input=[{"role": "user", "content": "x" * 100} for _ in range(1000)])
    second = respond(store=True, input="Last", previous_response_id=first.id)
    sizes = []
    monkeypatch.setattr("routes.openai.responses.stored.grow_body", lambda request, size: sizes.append(size) or True)
    after = ""
    for _ in range(10):
        sizes.clear()
        page = client.get(f"{PATH}/{second.id}/input_items?order={order}&limit=100{after}").json
        assert len(page["data"]) == 100
        assert sum(sizes) < 250 * 250  # of a thousand items that have some 250 bytes each
        after = f"&after={page['last_id']}"
    sizes.clear()
    assert client.get(f"{PATH}/{second.id}/input_items?after=msg_x").status_code == 400
    assert sizes == []


def test_what_else_is_to_be_listed_is_passed_over(api, respond):
    """As the client writes a list."""
    stored = respond(store=True, input="One")
    listed = api.responses.input_items.list(stored.id, include=["message.input_image.image_url"])
    assert len(list(listed)) == 1


def test_what_the_model_does_not_read_is_not_stored(app, client):
    """Reasoning, unknown fields of items and log probabilities take no room, and are not listed."""
    noise = {"annotations": ["x" * 9000], "anything": "x" * 9000}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello", **noise}], **noise},
        {"type": "reasoning", "summary": [], "encrypted_content": "x" * 9000},
        {"role": "assistant", "content": [{"type": "output_text", "text": "So.", **noise}], **noise},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}", **noise},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "text", "text": "found"}], **noise},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_file", "file_data": "x" * 9000}]},
    ]
    made = post(client, store=True, input=items).json["id"]
    listed = client.get(f"{PATH}/{made}/input_items?order=asc").json["data"]
    assert [item.pop("id").partition("_")[0] for item in listed] == ["msg", "msg", "fc", "fco", "fco"]
    assert {item.pop("status") for item in listed} == {"completed"}
    assert listed == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "So.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "found"}]},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_file"}]},
    ]
    assert services(app).responses.size()[1] < 9000
    again = post(client, previous_response_id=made, input="More")
    assert again.status_code == 200


def test_a_deleted_response_is_gone(api, respond):
    """For every route; a second deletion finds nothing."""
    made = respond(store=True)
    api.responses.delete(made.id)
    for call in (api.responses.retrieve, api.responses.delete, api.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            call(made.id)


def test_what_was_not_stored_is_not_found(api, respond):
    """Absent `store` means not stored; to go on from it is a bad request with OpenAI's code."""
    for made in (respond(), respond(store=False)):
        with pytest.raises(openai.NotFoundError):
            api.responses.retrieve(made.id)
        with pytest.raises(openai.BadRequestError) as caught:
            respond(previous_response_id=made.id)
        assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_no_other_client_finds_it(client):
    """By any route, and not by the words of the refusal either."""
    made = post(client, store=True).json["id"]

    def answers(response_id, **options):
        address, options = f"{PATH}/{response_id}", options | {"headers": {"X-Request-ID": "mine"}}
        found = [client.get(address, **options), client.get(f"{address}/input_items", **options)]
        found += [client.delete(address, **options), post(client, options, previous_response_id=response_id)]
        return [(one.status_code, one.json) for one in found]

    elsewhere = answers(made, **ELSEWHERE)
    assert elsewhere == answers("resp_" + "0" * 48, **ELSEWHERE)
    assert [status for status, _ in elsewhere] == [404, 404, 404, 400]
    assert client.get(f"{PATH}/{made}").status_code == 200


def test_it_is_kept_for_an_hour(app, client):
    """Then it is as if it had never been."""
    clock = Clock()
    app.extensions[KEY] = replace(app.extensions[KEY], responses=ResponseStore(1024 * 1024, clock=clock))
    made = post(client, store=True).json["id"]
    clock.advance(KEPT_SECONDS - 1)
    assert client.get(f"{PATH}/{made}").status_code == 200
    clock.advance(1)
    assert client.get(f"{PATH}/{made}").status_code == 404
    assert post(client, previous_response_id=made).status_code == 400


def test_what_does_not_fit_is_refused(app, client):
    """By the field that asks for it; the same without it is answered."""
    app.extensions[KEY] = replace(app.extensions[KEY], responses=ResponseStore(16 * 1024))
    long = {"input": [{"role": "user", "content": "word " * 1700}]}
    assert post(client, store=True, **long).json["error"]["param"] == "store"
    assert post(client, **long).status_code == 200


def test_an_answer_that_fails_is_not_stored(client, avibe):
    """And what was held for it is free."""
    avibe.failure = ModelError("It failed.")
    assert post(client, store=True).status_code == 500
    with post(client, store=True, stream=True) as streamed:
        assert "response.failed" in streamed.text
    assert "avito_ai_stored_responses_bytes 0.0" in client.get("/metrics").text


def test_the_metrics_say_how_much_is_stored(client):
    """Responses and bytes."""
    post(client, store=True)
    text = client.get("/metrics").text
    assert "avito_ai_stored_responses 1.0" in text
    assert "avito_ai_stored_responses_bytes 0.0" not in text


def test_a_page_may_delete_it(client):
    """A browser's preflight is told so, at this address alone."""
    asked = {"Origin": "https://example.com", "Access-Control-Request-Method": "DELETE"}
    allowed = client.options(f"{PATH}/resp_1", headers=asked).headers["Access-Control-Allow-Methods"]
    assert "DELETE" in allowed
    assert "DELETE" not in client.options(PATH, headers=asked).headers["Access-Control-Allow-Methods"]


def test_a_stored_response_is_not_streamed_again(client):
    """Refused by name, and not shown whole to a client that reads events."""
    made = post(client, store=True).json["id"]
    refused = client.get(f"{PATH}/{made}?stream=true")
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "stream")


@pytest.mark.parametrize("room", [True, False])
def test_a_stored_conversation_counts_as_a_body_of_its_size(respond, client, avibe, monkeypatch, room):
    """Small requests would else have any number of large ones read at once; where there is no room, it is a 503."""
    first = respond(store=True, input="x" * 5000)
    sizes = []
    monkeypatch.setattr("routes.openai.responses.stored.grow_body", lambda request, size: (sizes.append(size), room)[1])
    answer = post(client, previous_response_id=first.id)
    assert sum(sizes) > 5000
    assert (answer.status_code, len(avibe.submitted)) == ((200, 2) if room else (503, 1))
    assert room or int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("room", [True, False])
def test_listed_items_count_as_a_body_of_their_size(respond, client, monkeypatch, room):
    """As those of a conversation that goes on do."""
    first = respond(store=True, input="x" * 5000)
    sizes = []
    monkeypatch.setattr("routes.openai.responses.stored.grow_body", lambda request, size: (sizes.append(size), room)[1])
    listed = client.get(f"{PATH}/{first.id}/input_items")
    assert sum(sizes) > 5000
    assert listed.status_code == (200 if room else 503)
