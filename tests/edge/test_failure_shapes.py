"""In which shape failures are sent, and what Anthropic's clients call them."""

import json

import pytest

from edge import failover
from edge.errors import ERRORS, UnknownModel, meaning_of
from edge.failure_shapes import FailureShape, anthropic_body, id_headers, shape_of
from edge.ready_made import ReadyMade, Refused
from edge.request_head import read_head
from edge.route_table import ROUTES
from edge.services import services
from engine.errors import ContextTooLong, ValidationError
from keys.account import of_address
from routes.locale import sentence_in
from serving.malformed import MAX_LINE, failure_response, read_attempt
from telemetry.access_lines import SparseLines

KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 413: "request_too_large", 415: "invalid_request_error", 429: "rate_limit_error",
    499: "invalid_request_error", 500: "api_error", 502: "api_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/messages", FailureShape.ANTHROPIC),
        ("/v1/messages/", FailureShape.ANTHROPIC),
        ("/v1/messages/count_tokens", FailureShape.ANTHROPIC),
        ("/v1/messages/batches/7", FailureShape.ANTHROPIC),
        ("/v1/messagesx", FailureShape.OPENAI),
        ("/v1", FailureShape.OPENAI),
        ("/v1/models", FailureShape.OPENAI),
        ("/v10", FailureShape.PAGE),
        ("/api", FailureShape.API),
        ("/api/v1/messages", FailureShape.API),
        ("/apiary", FailureShape.PAGE),
        ("/", FailureShape.PAGE),
        ("", FailureShape.PAGE),
    ],
)
def test_the_address_decides(path, shape):
    """The nearest prefix counts, and only whole segments of it."""
    assert shape_of(path) is shape
    assert ("Request-ID" in id_headers(path, "a")) == (shape is FailureShape.ANTHROPIC)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_name_of_anthropics(kind):
    """By its status; the body has exactly the fields that the clients read."""
    error = kind.__new__(kind)
    error.message, error.retry_after = "No.", 7
    body = anthropic_body(error, "mine")
    assert body["error"].pop("message").endswith("No.")
    assert body["error"].pop("retry_after", None) == (7 if meaning_of(error).status == 429 else None)
    assert body == {"type": "error", "error": {"type": KINDS[meaning_of(error).status]}, "request_id": "mine"}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValidationError("No."), "No."),
        (ValidationError("temperature must be less.", "temperature"), "temperature must be less."),
        (
            ValidationError("The image is damaged.", "messages[0].content[1]"),
            "messages[0].content[1]: The image is damaged.",
        ),
        (UnknownModel("There is none."), "model: There is none."),
        (ContextTooLong("It has 9 tokens.", "messages"), "prompt is too long: It has 9 tokens."),
    ],
)
def test_the_message_names_the_field(error, message):
    """The shape has no field of its own for it; agents know a prompt that is too long by these words."""
    assert anthropic_body(error, "mine")["error"]["message"] == message


def test_a_refused_thread_has_the_code_on_which_clients_go_on_without():
    """Anthropic's runner of tools asks for a thread by itself; no other refusal of a field has details."""
    refused = anthropic_body(ValidationError("thread is not supported.", "thread"), "mine")["error"]
    assert refused["details"] == {"error_code": "thread_unsupported_request"}
    assert "details" not in anthropic_body(ValidationError("No.", "threads"), "mine")["error"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /%41" + b"a\xff" * 10**6,
        b"GET http://" + b"a" * 10**6,
        b"GET /" + b"%41" * 10**6 + b"\r\n" + b"Origin: x\r\n" * 10**6,
        b"GET / HTTP/1.1\r\n" + b"a:" * 10**6,
    ],
    ids=["other letters", "an address", "many lines", "one field"],
)
def test_of_a_long_head_the_beginning_is_read(head):
    """In the polling thread, which answers hundreds of such heads that do not end in one go."""
    attempt = read_attempt(head)
    assert attempt.method == "GET"
    assert len(attempt.path) <= MAX_LINE
    assert attempt.origin in (None, "x")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/models?a#b", "/v1/models"),
        (b"HTTP://host:80/v1/models#b?a", "/v1/models"),
        (b"/%D0%B0/\xd0\xb0/%2F?", "/\u0430/\u0430//"),
        (b"/a%FF\xff%4", "/a\ufffd\ufffd%4"),
        (b"//v1", "/v1"),
        (b"/a/http://h/b", "/a/http://h/b"),
        (b"*", ""),
        (b"http://host", ""),
    ],
)
def test_the_path_is_read_as_the_application_would(target, path):
    """Escaped or not, and replaced where it is no UTF-8."""
    assert read_attempt(b"GET " + target + b" HTTP/1.1\r\n").path == path


@pytest.mark.parametrize(
    ("status", "kind"), [(414, "invalid_request_error"), (431, "invalid_request_error"), (501, "api_error")]
)
def test_what_is_no_http_is_named_by_the_status_that_is_sent(status, kind):
    """The error of a malformed request is always the same; its status says more."""
    attempt = read_attempt(b"POST /v1/messages?beta=true HTTP/1.1\r\n")
    response = failure_response(status, "No", ValidationError("No."), "mine", attempt, {})
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"\r\nRequest-ID: mine\r\n" in head
    assert json.loads(body) == {"type": "error", "error": {"type": kind, "message": "No."}, "request_id": "mine"}


def test_a_refusal_before_the_hooks_has_the_shape_of_its_address(app):
    """With the header that Anthropic's clients read the id from."""
    made = ReadyMade(services(app).settings, services(app).metrics, sentence_in, SparseLines())
    head = read_head(b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\nContent-Length: 2\r\n\r\n")
    row = ROUTES["POST /v1/chat/completions"]
    refused = Refused(head, row, "1.1.1.1", of_address("1.1.1.1"))
    lines, _, body = made.refusal(refused, failover.NOT_READY).partition(b"\r\n\r\n")
    assert b"\r\nRequest-ID: mine\r\n" in lines
    assert json.loads(body)["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(("method", "status"), [("GET", 404), ("POST", 404)])
def test_the_hooks_answer_in_that_shape(client, method, status):
    """An address below that is not there, with the id in body and header."""
    answer = client.open("/v1/messages/batches", method=method, headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.headers["request-id"], answer.json["request_id"]) == (status, "mine", "mine")
    assert answer.json["error"]["type"] == "not_found_error"
    assert answer.json["error"]["message"].startswith("There is nothing at this address.")
