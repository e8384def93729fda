"""The `anthropic` client over scripted models: what it sends is read, what it reads is what was meant."""

import base64
from datetime import UTC, datetime

import anthropic
import httpx2
import pytest
from pydantic import BaseModel

from engine.errors import DeadlineExceeded, ModelError, NotReady, Overloaded, ValidationError
from tests.fakes import image_bytes

NO_KEY = "none"  # the client insists on one, the service does not
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}
CUT = '<tool_call>\n{"name": "look", "arguments": {"where": {"at": "the sea", "by": "the sh'
CALL = 'I look.\n<tool_call>\n{"name": "look", "arguments": {"at": "the sea"}}\n</tool_call>'
THOUGHT = "<think>\nHm.\n</think>\n\nYes."


@pytest.fixture
def claude(app):
    """The client as a user makes it, without a socket and without retries."""
    transport = httpx2.WSGITransport(app=app)
    with anthropic.Anthropic(
        base_url="http://localhost",
        api_key=NO_KEY,
        max_retries=0,
        http_client=anthropic.DefaultHttpxClient(transport=transport),
    ) as client:
        yield client


def create(claude, **fields):
    return claude.messages.create(**({"model": "avibe", "max_tokens": 8, "messages": HELLO} | fields))


def streamed(claude, **fields):
    """Return the message that the client puts together from a stream."""
    with claude.messages.stream(**({"model": "avibe", "max_tokens": 8, "messages": HELLO} | fields)) as stream:
        return stream.get_final_message()


def test_the_models_are_listed(claude):
    """On one page, with the names and the time that programs show; each can be asked for alone."""
    listed = claude.models.list()
    assert [one.display_name for one in listed] == [one.id for one in listed] == ["avibe", "avision"]
    assert (listed.has_more, listed.first_id, listed.last_id) == (False, "avibe", "avision")
    for one in listed.data:
        assert (one.type, one.lifecycle) == ("model", "active")
        assert one.created_at == datetime.fromtimestamp(one.created, UTC)
        assert claude.models.retrieve(one.id) == one


def test_a_message_is_read(claude):
    """Text, usage, reason, and the id of the request."""
    answer = create(claude, system="Be brief.", metadata={"user_id": "u"}, stop_sequences=["END"])
    assert [block.text for block in answer.content] == ["An answer."]
    assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("end_turn", 7, 5)
    assert answer.id == f"msg_{answer._request_id}"


@pytest.mark.parametrize("text", ["An answer.", CALL, THOUGHT, "", CUT])
def test_a_stream_makes_the_same_message(claude, avibe, text):
    """Texts, calls, calls that were cut, and reasoning, whole and put together; each can be sent back."""
    avibe.text, avibe.finish_reason = text, "length" if text == CUT else "stop"
    fields = {"tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 1024}}
    answer, put_together = create(claude, **fields), streamed(claude, **fields)
    shown, same = (message.model_dump(exclude={"id"}) for message in (answer, put_together))
    for message in (shown, same):
        for block in message["content"]:
            block.pop("id", None)
            block.pop("signature", None)
            block.pop("parsed_output", None)
    assert shown == same
    assert create(claude, messages=[*HELLO, answer.to_param(), *HELLO], **fields).stop_reason == answer.stop_reason


def test_a_call_that_was_cut_has_what_there_is_of_its_input(claude, avibe):
    """Whole values only, and never the tags of the model."""
    avibe.text, avibe.finish_reason = CUT, "length"
    for answer in (create(claude, tools=[TOOL]), streamed(claude, tools=[TOOL])):
        assert (answer.stop_reason, len(answer.content)) == ("max_tokens", 1)
        assert answer.content[0].input == {"where": {"at": "the sea"}}


def test_the_text_of_a_stream_comes_in_pieces(claude):
    """By the client's shortest way."""
    with claude.messages.stream(model="avibe", max_tokens=8, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == "An answer."
        assert stream.request_id


def test_raw_events_are_typed(claude):
    """In the order of the protocol; pings are passed over by the client."""
    events = list(create(claude, stream=True))
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_a_tool_is_called_and_its_result_goes_back(claude, avibe):
    """A whole round, as the guide shows it, with the message as it was received."""
    avibe.text = CALL
    first = create(claude, tools=[TOOL])
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert (call.type, call.name, call.input) == ("tool_use", "look", {"at": "the sea"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "It is blue.", "is_error": False}
    avibe.text = "It is blue."
    said = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    assert create(claude, messages=said, tools=[TOOL]).content[0].text == "It is blue."
    assert [message["role"] for message in avibe.submitted[-1].prompt.messages] == ["user", "assistant", "tool"]
    assert avibe.submitted[-1].prompt.messages[-1]["tool_call_id"] == call.id


def test_an_image_is_shown(claude, avision):
    """In base64, as the guide shows it."""
    data = base64.b64encode(image_bytes()).decode()
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    said = [{"role": "user", "content": [image, {"type": "text", "text": "What is this?"}]}]
    assert create(claude, model="avision", messages=said).content
    assert len(avision.submitted[0].prompt.images) == 1


def test_tokens_are_counted(claude):
    """By the client's own method, and by that of its betas."""
    assert claude.messages.count_tokens(model="avibe", messages=HELLO, tools=[TOOL]).input_tokens == 7
    counted = claude.beta.messages.count_tokens(model="avibe", messages=HELLO, betas=["token-counting-2024-11-01"])
    assert counted.input_tokens == 7


def test_the_client_of_betas_works(claude, avibe):
    """Another address with `?beta=true`, and fields that are hints."""
    answer = claude.beta.messages.create(
        model="avibe",
        max_tokens=8,
        messages=HELLO,
        betas=["context-management-2025-06-27"],
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
        service_tier="auto",
        thinking={"type": "adaptive"},
        output_config={"effort": "low"},
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    )
    assert answer.content[0].text == "An answer."
    assert avibe.submitted[0].prompt.messages[0]["content"] == "Be brief."


def test_stop_sequences_are_named(claude, avibe):
    """The client shows which of them ended the answer."""
    avibe.ended_by = "END"
    for answer in (create(claude, stop_sequences=["END"]), streamed(claude, stop_sequences=["END"])):
        assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "END")


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (ValidationError("It is wrong.", "messages"), anthropic.BadRequestError, "invalid_request_error"),
        (NotReady("It loads.", 5), anthropic.ServiceUnavailableError, "overloaded_error"),
        (Overloaded("It is busy.", 3), anthropic.ServiceUnavailableError, "overloaded_error"),
        (ModelError("It failed."), anthropic.InternalServerError, "api_error"),
        (DeadlineExceeded("Too late."), anthropic.GatewayTimeoutError, "timeout_error"),
    ],
)
def test_errors_are_the_clients_own(claude, avibe, error, kind, name):
    """Their class, their type, and the id to ask the operator with."""
    avibe.refusal = error
    with pytest.raises(kind) as caught:
        create(claude)
    assert (caught.value.type, caught.value.status_code) == (name, caught.value.response.status_code)
    assert caught.value.request_id == caught.value.body["request_id"]
    assert error.message in caught.value.message


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"model": "claude-next"}, anthropic.NotFoundError),
        ({"max_tokens": 0}, anthropic.BadRequestError),
        ({"messages": []}, anthropic.BadRequestError),
        ({"messages": [{"role": "user", "content": "a" * 9_000_000}]}, anthropic.ContentTooLargeError),
    ],
)
def test_refusals_are_the_clients_own(claude, fields, kind):
    """As with Anthropic's service."""
    with pytest.raises(kind):
        create(claude, **fields)


def test_an_error_in_a_stream_is_raised(claude, avibe):
    """With its type, whatever the status of the stream was."""
    avibe.failure = ModelError("It failed.")
    with pytest.raises(anthropic.APIStatusError) as caught:
        streamed(claude)
    assert caught.value.type == "api_error"


class TestRateLimits:
    """With limits switched on."""

    @pytest.fixture
    def environ(self):
        return {"RATE_LIMIT_PER_MINUTE": "1", "RATE_LIMIT_PER_HOUR": "0"}

    def test_a_spent_limit_is_a_rate_limit_error(self, claude):
        """With the seconds to wait."""
        create(claude)
        with pytest.raises(anthropic.RateLimitError) as caught:
            create(claude)
        assert caught.value.type == "rate_limit_error"
        assert int(caught.value.response.headers["retry-after"]) > 0


def test_what_can_be_sent_again_is_sent_again(app, avibe):
    """A full service is asked once more, and answers; the wait is the client's own."""
    asked = []

    def application(environ, start_response):
        asked.append(environ["HTTP_X_STAINLESS_RETRY_COUNT"])
        avibe.refusal = Overloaded("It is busy.", 0) if len(asked) == 1 else None
        return app(environ, start_response)

    client = anthropic.DefaultHttpxClient(transport=httpx2.WSGITransport(app=application))
    with anthropic.Anthropic(base_url="http://localhost", api_key=NO_KEY, max_retries=1, http_client=client) as claude:
        assert create(claude).content[0].text == "An answer."
    assert asked == ["0", "1"]


class Listing(BaseModel):
    """What a program wants an answer to be."""

    title: str
    price: int


def test_a_schema_is_sent_as_the_client_writes_it(claude, avibe):
    """These models follow no grammar, so the refusal is theirs; the request itself is read."""
    with pytest.raises(anthropic.BadRequestError, match="cannot hold its answer to a form"):
        claude.messages.parse(model="avibe", max_tokens=8, messages=HELLO, output_format=Listing)
