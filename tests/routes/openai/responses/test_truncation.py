"""`truncation: auto`: a conversation that does not fit goes on without its oldest messages."""

import base64

import openai
import pytest

from engine.errors import ContextTooLong
from tests.fakes import image_bytes

URL = f"data:image/png;base64,{base64.b64encode(image_bytes()).decode()}"


def said(request):
    """Return what a model was asked: a letter for each role, and the first two characters of each text."""
    texts = [content if isinstance(content, str) else content[-1]["text"] for content in contents(request)]
    return [f"{message['role'][0]}:{text[:2]}" for message, text in zip(request.prompt.messages, texts, strict=True)]


def contents(request):
    return [message.get("content") for message in request.prompt.messages]


@pytest.fixture
def counted(avibe, avision):
    """Let both models count a token for each character, and each image as a hundred; return their context."""
    for backend in (avibe, avision):
        length = backend.info.max_model_len

        def tokenize(request, length=length):
            texts = [text if isinstance(text, str) else text[-1]["text"] for text in contents(request)]
            size = sum(map(len, texts)) + 100 * len(request.prompt.images)
            if size > length:
                raise ContextTooLong("too long", "messages", length)
            return list(range(size))

        backend.tokenize = tokenize
    return length


def user(name, size=10):
    return {"role": "user", "content": name.ljust(size, ".")}


def answer(name, size=10):
    return {"role": "assistant", "content": name.ljust(size, ".")}


def test_what_fits_is_left_alone(respond, avibe, counted):
    """The response says what was asked for."""
    for truncation in ("auto", "disabled"):
        response = respond(input=[user("q1"), answer("a1"), user("q2")], truncation=truncation)
        assert said(avibe.submitted[-1]) == ["u:q1", "a:a1", "u:q2"]
        assert response.truncation == truncation
    assert respond().truncation == "disabled"


def test_the_oldest_questions_go_with_their_answers(respond, avibe, counted):
    """As few as need be, and never the instructions, wherever they stand."""
    big = counted // 2
    talk = [user("q1", big), answer("a1"), {"role": "developer", "content": "rule"}, user("q2", big), answer("a2")]
    respond(input=[*talk, user("q3")], instructions="Be brief.", truncation="auto")
    assert said(avibe.only) == ["s:Be", "s:ru", "u:q2", "a:a2", "u:q3"]


def test_the_answer_has_room(respond, avibe, counted):
    """A quarter of the context, or its own bound."""
    talk = [user("q1", counted // 4), answer("a1"), user("q2", counted // 4 * 2), answer("a2"), user("q3")]
    respond(input=talk, truncation="auto")
    respond(input=talk, truncation="auto", max_output_tokens=16)
    assert [len(request.prompt.messages) for request in avibe.submitted] == [3, 5]


def test_no_result_stands_without_its_call(respond, avibe, counted):
    """A question goes with all that was called for it."""
    call = {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "1", "output": "found".ljust(counted, ".")}
    respond(input=[user("q1"), call, result, answer("a1"), user("q2")], truncation="auto")
    assert said(avibe.only) == ["u:q2"]


def test_images_go_with_their_message(respond, avision, counted):
    """Those that are left are the ones that are shown."""
    other = f"data:image/png;base64,{base64.b64encode(image_bytes(size=(9, 9))).decode()}"

    def asked(name, url, size):
        image, text = {"type": "input_image", "image_url": url}, {"type": "input_text", "text": name.ljust(size, ".")}
        return {"role": "user", "content": [image, text]}

    talk = [asked("q1", URL, counted // 2), answer("a1"), asked("q2", other, counted // 2), answer("a2"), user("q3")]
    respond(model="avision", input=talk, truncation="auto")
    assert said(avision.only) == ["u:q2", "a:a2", "u:q3"]
    assert [image.data for image in avision.only.prompt.images] == [image_bytes(size=(9, 9))]


def test_a_stored_conversation_is_kept_whole(respond, api, avibe, counted):
    """What one request leaves out is there for the next."""
    first = respond(input=user("q1", counted - 50)["content"], store=True)
    second = respond(input="q2", store=True, previous_response_id=first.id, truncation="auto")
    assert said(avibe.submitted[-1]) == ["u:q2"]
    items = api.responses.input_items.list(second.id, order="asc").data
    assert [item.role for item in items] == ["user", "assistant", "user"]


def test_input_is_counted_as_it_would_be_read(client, counted):
    """By the route that counts, too."""
    body = {"model": "avibe", "input": [user("q1", counted), answer("a1"), user("q2")], "truncation": "auto"}
    assert client.post("/v1/responses/input_tokens", json=body).json["input_tokens"] == 10


def test_a_question_that_does_not_fit_alone_is_refused(respond):
    """By its field; there is nothing left to drop."""
    talk = [user("q1"), answer("a1"), user("слово " * 400_000)]
    with pytest.raises(openai.BadRequestError) as caught:
        respond(input=talk, truncation="auto")
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_few_lengths_are_counted(respond, avibe, counted, count):
    """A long conversation is not tokenized once for each of its messages, nor what is far too long at all."""
    sizes, count_tokens = [], avibe.tokenize

    def tokenize(request):
        sizes.append(sum(map(len, contents(request))))
        return count_tokens(request)

    avibe.tokenize = tokenize
    respond(input=[user(f"q{number}", counted) for number in range(count)] + [user("last")], truncation="auto")
    assert said(avibe.only) == ["u:la"]
    assert len(sizes) <= 6
    assert max(sizes) <= 16 * counted
