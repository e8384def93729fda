"""The JSON API: its bodies, its refusals and their wording."""

import json
from io import BytesIO
from types import SimpleNamespace

import pytest

from app_production import create_app
from engine.errors import ContextTooLong, DeadlineExceeded, EngineDead, ModelError, NotReady
from engine.types import Status
from models import ModelSet
from tests.fakes import ScriptedBackend, image_bytes, multipart

TEXT, IMAGE = "/api/v1/text/generate", "/api/v1/image/analyze"


def upload(data, name="picture.png", **fields):
    """Return the arguments of a client that uploads an image with its question."""
    return multipart([("image", (data, name)), ("prompt", "What is it?"), *fields.items()])


def refused(response, status, code):
    """Check a failure's status and exact fields; return its message."""
    assert (response.status_code, response.json["error"]) == (status, code)
    assert set(response.json) == {"error", "message", "request_id"}
    assert response.json["request_id"] == response.headers["X-Request-ID"]
    return response.json["message"]


def test_text_answer_has_exactly_the_promised_fields(client, avibe):
    """Names, nesting and rounding are what clients rely on."""
    response = client.post(TEXT, json={"prompt": "Привет"}, headers={"X-Request-ID": "my-custom-id"})
    assert response.status_code == 200
    body = response.json
    total_time = body["metrics"].pop("total_time")
    assert body == {
        "success": True,
        "data": {"text": "An answer.", "generated_tokens": 5, "input_tokens": 7},
        "metrics": {"generation_time": 1.0, "tokens_per_second": 5.0},
        "request_id": "my-custom-id",
    }
    assert 0 <= total_time < 5
    assert response.headers["X-Model"] == "avibe"


def test_letters_of_every_language_are_sent_as_they_are(client, avibe):
    """A Russian answer is not escaped in the raw body."""
    avibe.text = "Продаётся диван"
    assert "Продаётся диван" in client.post(TEXT, json={"prompt": "x"}).get_data(as_text=True)


def test_absent_fields_take_the_settings_and_the_checkpoints_defaults(client, avibe, avision):
    """Length and temperature come from the settings, the others from the checkpoint's generation config."""
    client.post(TEXT, json={"prompt": "x"})
    sampling = avibe.only.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (256, 0.7, 1.0, 0)
    client.post(IMAGE, **upload(image_bytes()))
    assert avision.only.sampling.max_tokens == 200


def test_requested_values_reach_the_model(client, avibe):
    """Prompt, length, temperature and caller are passed on unchanged."""
    client.post(TEXT, json={"prompt": " Hi ", "max_tokens": 9, "temperature": 0}, headers={"X-Request-ID": "r-1"})
    submitted = avibe.only
    assert submitted.prompt.messages == ({"role": "user", "content": " Hi "},)
    assert (submitted.sampling.max_tokens, submitted.sampling.temperature) == (9, 0.0)
    assert (submitted.request_id, submitted.client) == ("r-1", "127.0.0.1")


@pytest.mark.parametrize(("waited", "left"), [(0.0, (30.0, 300.0)), (10.0, (20.0, 290.0)), (40.0, (0.0, 260.0))])
def test_deadlines_count_from_the_arrival(client, avibe, monkeypatch, waited, left):
    """What a request has waited for a thread is part of its time."""
    monkeypatch.setattr("middleware.arrival", lambda request: 100.0)
    monkeypatch.setattr("routes.generation_run.time", SimpleNamespace(monotonic=lambda: 100.0 + waited))
    client.post(TEXT, json={"prompt": "x"})
    assert (avibe.only.queue_timeout, avibe.only.timeout) == left


def test_null_counts_as_absent(client, avibe):
    """A client that serialises its missing options as null gets the defaults."""
    assert client.post(TEXT, json={"prompt": "x", "max_tokens": None, "temperature": None}).status_code == 200
    assert avibe.only.sampling.max_tokens == 256


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "prompt is required."),
        ({"prompt": ""}, "prompt must not be empty."),
        ({"prompt": " \n\t\u00a0"}, "prompt must not be empty."),
        ({"prompt": 5}, "prompt must be a text that is not blank."),
        ({"prompt": None}, "prompt must be a text that is not blank."),
        ({"prompt": ["x"]}, "prompt must be a text that is not blank."),
        ({"prompt": "x" * 2001}, "Prompt too long. Maximum length: 2000 characters"),
        ({"prompt": "a\0b"}, "prompt has characters that are not allowed in a text."),
        ({"prompt": "\ud800"}, "prompt has characters that are not allowed in a text."),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens must be an integer from 1 to 2048."),
        ({"prompt": "x", "max_tokens": 2049}, "max_tokens must be an integer from 1 to 2048."),
        ({"prompt": "x", "max_tokens": 10**30}, "max_tokens must be an integer from 1 to 2048."),
        ({"prompt": "x", "max_tokens": 5.5}, "max_tokens must be an integer from 1 to 2048."),
        ({"prompt": "x", "max_tokens": "5"}, "max_tokens must be an integer from 1 to 2048."),
        ({"prompt": "x", "max_tokens": True}, "max_tokens must be an integer from 1 to 2048."),
        ({"prompt": "x", "temperature": -0.1}, "temperature must be a number from 0 to 2."),
        ({"prompt": "x", "temperature": 2.1}, "temperature must be a number from 0 to 2."),
        ({"prompt": "x", "temperature": "1"}, "temperature must be a number from 0 to 2."),
        ({"prompt": "x", "temperature": False}, "temperature must be a number from 0 to 2."),
        ({"prompt": "x", "top_p": 1}, "Unknown field: top_p."),
        ({"prompt": "x", "a\nb": 1}, "Unknown field: (unreadable)."),
        ({"prompt": "x", "y" * 65: 1}, "Unknown field: (unreadable)."),
    ],
)
def test_each_mistake_is_named_in_a_plain_sentence(client, avibe, body, sentence):
    """The field and what it must be; nothing is queued for an invalid request."""
    response = client.post(TEXT, data=json.dumps(body), content_type="application/json")
    assert refused(response, 400, "validation_error") == sentence
    assert avibe.submitted == []


@pytest.mark.parametrize("length", [1, 2000])
def test_prompts_up_to_the_limit_are_accepted(client, length):
    """The limit counts characters, not bytes, and is inclusive."""
    assert client.post(TEXT, json={"prompt": "ж" * length}).status_code == 200


@pytest.mark.parametrize("value", [0, 2, 0.5, 1e-9])
def test_temperatures_from_zero_to_two_are_accepted(client, avibe, value):
    """Integers are accepted as numbers."""
    assert client.post(TEXT, json={"prompt": "x", "temperature": value}).status_code == 200
    assert avibe.only.sampling.temperature == value


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The request body is not valid JSON."),
        (b"{", "The request body is not valid JSON."),
        (b"{'prompt': 'x'}", "The request body is not valid JSON."),
        (b'{"prompt": "x", "temperature": NaN}', "temperature must be a finite number, at most 1.7e308."),
        (b'{"prompt": "x", "temperature": -Infinity}', "temperature must be a finite number, at most 1.7e308."),
        (
            b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}",
            "max_tokens must be a finite number, at most 1.7e308.",
        ),
        (b'{"prompt": "x", "temperature": 1e999}', "temperature must be a finite number, at most 1.7e308."),
        (b'{"prompt": "x", "prompt": "y"}', "prompt was sent more than once."),
        (b'"prompt"', "The request body must be a JSON object."),
        (b"[]", "The request body must be a JSON object."),
        (b'{"prompt": "x", "\\ud800": 1}', "\ufffd has characters that are not allowed in a text."),
        (b"null", "The request body must be a JSON object."),
        (b'{"prompt": "\xff\xfe"}', "The request body is not valid UTF-8."),
        (b"[" * 200_000, "The request body is nested too deeply."),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(client, body, sentence):
    """NaN, duplicates, bad UTF-8 and deep nesting are refused with 400."""
    response = client.post(TEXT, data=body, content_type="application/json")
    assert refused(response, 400, "validation_error") == sentence


def test_a_byte_order_mark_is_accepted(client):
    """Some Windows programs write one before their JSON."""
    body = b'\xef\xbb\xbf{"prompt": "x"}'
    assert client.post(TEXT, data=body, content_type="application/json; charset=utf-8").status_code == 200


@pytest.mark.parametrize("path", [TEXT, IMAGE])
@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "", "application/x-www-form-urlencoded"])
def test_other_content_types_are_refused(client, path, kind):
    """A route reads only the content types of its row."""
    refused(client.post(path, data=b"{}", content_type=kind), 415, "unsupported_media_type")


def test_the_text_route_refuses_forms(client):
    """It reads JSON alone."""
    refused(client.post(TEXT, **upload(image_bytes())), 415, "unsupported_media_type")


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "gzip, identity", "x", "gzip;q=1"])
def test_a_content_coding_that_is_not_read_is_refused(client, coding):
    """By its name, before anything of the body is read."""
    response = client.post(TEXT, json={"prompt": "x"}, headers={"Content-Encoding": coding})
    message = refused(response, 415, "unsupported_media_type")
    assert message == "A compressed request body must be gzip or deflate."


def test_a_body_over_its_limit_is_refused_by_its_length(client):
    """Content-Length is checked before reading; exactly 1 MiB is accepted."""
    fits = b'{"prompt": "x"}'.ljust(1024 * 1024)
    assert client.post(TEXT, data=fits, content_type="application/json").status_code == 200
    message = refused(client.post(TEXT, data=fits + b" ", content_type="application/json"), 413, "payload_too_large")
    assert message == "The request body is too large. Maximum size: 1 MiB"


def test_a_body_of_unknown_length_is_refused_once_it_is_over_its_limit(client):
    """A chunked body has no Content-Length and meets the same limit while it is read."""
    body = BytesIO(b'{"prompt": "x"}'.ljust(1024 * 1024 + 1))
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    response = client.post(TEXT, input_stream=body, content_type="application/json", environ_overrides=chunked)
    assert refused(response, 413, "payload_too_large").endswith("1 MiB")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ModelError("The model failed on this request."), 500, "model_error"),
        (EngineDead("The engine stopped."), 500, "model_error"),
        (DeadlineExceeded("The request did not finish in time."), 504, "deadline_exceeded"),
        (NotReady("The service is stopping.", 5), 503, "not_ready"),
        (ContextTooLong("Prompt and answer are too long together.", "max_tokens"), 400, "validation_error"),
    ],
)
def test_errors_of_the_model_keep_their_type_and_message(client, avibe, error, status, code):
    """Every error has the same fields."""
    avibe.failure = error
    assert refused(client.post(TEXT, json={"prompt": "x"}), status, code) == error.message


def test_an_unexpected_error_reveals_nothing(client, avibe, caplog):
    """No stack, path or text of an exception is sent; the text is not logged either."""
    avibe.refusal = RuntimeError("secret prompt at /srv/models")
    message = refused(client.post(TEXT, json={"prompt": "x"}), 500, "internal_error")
    assert "secret" not in message
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_overload_is_refused_before_an_image_is_decoded(client, avision):
    """503 with Retry-After, and no image is decoded."""
    avision.capacity = 0
    response = client.post(IMAGE, **upload(image_bytes()))
    refused(response, 503, "overloaded")
    assert response.headers["Retry-After"] == "3"
    assert avision.decoded == []


def test_a_model_that_is_loading_says_when_to_retry(client, avibe):
    """503 `not_ready` with Retry-After."""
    avibe.become(Status.LOADING)
    response = client.post(TEXT, json={"prompt": "x"})
    refused(response, 503, "not_ready")
    assert response.headers["Retry-After"] == "5"


def test_a_generation_request_leaves_its_three_lines(client, caplog):
    """Validated, tokenized and generated are logged at INFO, without the text of prompt or answer."""
    caplog.set_level("INFO")
    client.post(TEXT, json={"prompt": "my secret prompt"})
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "validated: avibe"
    assert lines[1] == "tokenized: 7 prompt tokens"
    assert lines[2].startswith("generated: 5 tokens in ")
    assert lines[3].startswith("POST /api/v1/text/generate 200 ")
    assert "secret" not in caplog.text
    assert "An answer" not in caplog.text


def test_the_defaults_of_a_checkpoint_are_used(models, settings, machine):
    """top_p, top_k, min_p and repetition_penalty come from the checkpoint; its temperature does not."""
    own = {"top_p": 0.8, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05, "temperature": 0.1}
    backend = ScriptedBackend("avibe", generation_defaults=own)
    app = create_app(settings, ModelSet({"avibe": backend}), machine)
    app.test_client().post(TEXT, json={"prompt": "x"})
    sampling = backend.only.sampling
    assert (sampling.top_p, sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (0.8, 20, 0.1, 1.05)
    assert sampling.temperature == 0.7
