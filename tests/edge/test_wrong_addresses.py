"""Addresses that no route has: a client whose base URL is wrong is told so, in JSON if it asks for that."""

import pytest

NOTHING = "There is nothing at this address."
JSON = {"Accept": "application/json"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}

# What a client with a wrong base URL asks for, what it means, and what its base URL should do.
END, TWICE, FRONT, ADDRESS = "end in /v1", "not add /v1 a second time", "have nothing in front of /v1", ""
MEANT = [
    ("POST", "/chat/completions", "/v1/chat/completions", END),
    ("POST", "/chat/completions/", "/v1/chat/completions", END),
    ("POST", "/completions", "/v1/completions", END),
    ("GET", "/models", "/v1/models", END),
    ("GET", "/models/avibe", "/v1/models", END),
    ("POST", "/responses", "/v1/responses", END),
    ("GET", "/responses/resp_1", "/v1/responses", END),
    ("POST", "/messages", "/v1/messages", END),
    ("POST", "/messages/count_tokens", "/v1/messages/count_tokens", END),
    ("POST", "/api/v1/chat/completions", "/v1/chat/completions", FRONT),
    ("POST", "/api/v1/completions", "/v1/completions", FRONT),
    ("GET", "/api/v1/models", "/v1/models", FRONT),
    ("POST", "/api/v1/messages", "/v1/messages", FRONT),
    ("POST", "/api/chat/completions", "/v1/chat/completions", END),
    ("POST", "/anthropic/messages", "/v1/messages", END),
    ("POST", "/anthropic/v1/messages", "/v1/messages", FRONT),
    ("POST", "/openai/v1/chat/completions", "/v1/chat/completions", FRONT),
    ("POST", "/v1/v1/chat/completions", "/v1/chat/completions", TWICE),
    ("GET", "/v1/v1/models/avibe", "/v1/models", TWICE),
    ("POST", "/v1/v1/messages", "/v1/messages", TWICE),
    ("POST", "/v1/v1/messages/count_tokens", "/v1/messages/count_tokens", TWICE),
    ("POST", "/some/proxy/v1/responses", "/v1/responses", FRONT),
    ("POST", "/v1/chat/completions/chat/completions", "/v1/chat/completions", "end before /chat/completions"),
    ("POST", "/v1/chat/completions/v1/chat/completions", "/v1/chat/completions", "end before /v1/chat/completions"),
    ("POST", "/chat/completions/chat/completions", "/v1/chat/completions", END),
    ("POST", "/v1/messages/v1/messages", "/v1/messages", "end before /v1/messages"),
    ("POST", "/v1/messages/messages", "/v1/messages", "end before /messages"),
    ("POST", "/v1beta/openai/chat/completions", "/v1/chat/completions", END),
    ("GET", "/v1beta/openai/models", "/v1/models", END),
    ("POST", "/some/proxy/chat/completions", "/v1/chat/completions", END),
    ("POST", "/some/proxy/messages/count_tokens", "/v1/messages/count_tokens", END),
    ("POST", "/some/responses/input_tokens", "/v1/responses/input_tokens", END),
    ("POST", "/openai/deployments/avibe/chat/completions", "/v1/chat/completions", END),
    ("POST", "/openai/deployments/avibe/completions", "/v1/completions", END),
    ("POST", "/v1/engines/avibe/completions", "/v1/completions", END),
    ("POST", "/text/generate", "/api/v1/text/generate", ADDRESS),
    ("POST", "/v1/text/generate", "/api/v1/text/generate", ADDRESS),
    ("POST", "/v1/image/analyze", "/api/v1/image/analyze", ADDRESS),
]
# What OpenAI's API has and this service does not.
LACKING = [
    *("/v1/embeddings", "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/images/generations", "/v1/moderations"),
    *("/v1/files", "/v1/files/file_1/content", "/v1/batches", "/v1/fine_tuning/jobs", "/v1/assistants", "/v1/rerank"),
    *(
        "/v1/threads/thread_1/messages",
        "/v1/engines/avibe/embeddings",
        "/v1/vector_stores",
        "/v1/realtime/sessions",
        "/v1",
        "/v1/",
        "/v1/nothing",
    ),
]


def message_of(response):
    """Return the message of a failure in any of the three shapes."""
    told = response.json["error"]
    return response.json["message"] if isinstance(told, str) else told["message"]


@pytest.mark.parametrize(("method", "path", "meant", "should"), MEANT)
@pytest.mark.parametrize("headers", [JSON, {"Accept": "*/*"}, {}], ids=["json", "anything", "none"])
def test_a_client_with_a_wrong_base_url_is_told(client, method, path, meant, should, headers):
    """404 in JSON, in the shape that it reads, with the address that it means and what is wrong with its own."""
    response = client.open(path, method=method, headers=headers, json={} if method == "POST" else None)
    assert response.status_code == 404
    check = f"your client's base URL, which should {should}" if should else "the address"
    assert message_of(response) == f"{NOTHING} The service has {meant}: check {check}."


def test_anthropics_clients_are_told_in_their_own_shape(client):
    """Wherever the address begins."""
    for path in ("/messages", "/v1/v1/messages", "/v1/v1/messages/count_tokens"):
        assert client.post(path, json={}).json["type"] == "error"
    assert "type" not in client.post("/v1/v1/chat/completions", json={}).json


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions//", "/v1/chat/completions"),
        ("/v1///messages", "/v1/messages"),
        ("/v1//models/avibe", "/v1/models"),
        ("/api/v1//text/generate", "/api/v1/text/generate"),
    ],
)
def test_a_slash_too_many_is_told(client, path, meant):
    """Of a base URL that ends with one, to which a client adds another."""
    said = f"{NOTHING} The service has {meant}: check your client's base URL, which should not end with a slash."
    assert message_of(client.post(path, json={})) == said
    prefixed = message_of(client.post(f"/proxy{path}", json={}))
    assert not prefixed.endswith("slash.")


@pytest.mark.parametrize("path", LACKING)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_this_service_lacks_is_told_with_what_it_has(client, method, path):
    """In OpenAI's shape, from the table of routes."""
    response = client.open(path, method=method, json={} if method == "POST" else None)
    assert response.status_code == 404
    error = response.json["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, "not_found")
    for has in ("text", "images", "chat/completions", "models", "responses", "messages"):
        assert has in error["message"]


@pytest.mark.parametrize(
    "path", [path for _, path, _, _ in MEANT if not path.startswith(("/api", "/v1"))] + ["/nothing"]
)
def test_a_visitor_gets_a_page(client, path):
    """A browser asks for HTML, whatever it follows."""
    response = client.get(path, headers=BROWSER)
    assert (response.status_code, response.mimetype) == (404, "text/html")
    assert NOTHING in response.text


@pytest.mark.parametrize(
    ("path", "headers", "mimetype"),
    [
        ("/nothing", JSON, "application/json"),
        ("/nothing", {"Accept": "application/json;q=0"}, "text/html"),
        ("/nothing", {"Accept": "*/*"}, "text/html"),
        ("/nothing", {}, "text/html"),
        ("/apiary", JSON, "application/json"),
    ],
)
def test_any_other_address_is_json_only_for_who_asks(client, path, headers, mimetype):
    """In our own shape there."""
    response = client.get(path, headers=headers)
    assert (response.status_code, response.mimetype) == (404, mimetype)
    if mimetype == "application/json":
        assert set(response.json) == {"error", "message", "request_id"}


@pytest.mark.parametrize(
    "path", ["/x" * 5000, "/chat/completions" * 300, "/%00/chat/completions", "/\u2028/models", "/v1/<x>"]
)
def test_no_part_of_the_address_is_repeated(client, path):
    """However long or odd it is."""
    response = client.get(path, headers=JSON)
    assert response.status_code == 404
    assert len(response.text) < 500
    assert "<x>" not in response.text


@pytest.mark.parametrize(
    ("path", "note"),
    [
        ("/v1/responses/compact", "Nothing is compacted here; send less of the conversation."),
        ("/v1/responses/compact/", "Nothing is compacted here; send less of the conversation."),
        ("/v1/responses/resp_1/cancel", "Nothing runs in the background here; close the connection to end an answer."),
    ],
)
def test_what_responses_lack_is_said(client, path, note):
    """404 with what to do instead, though the end of one address could be the id of a response."""
    response = client.post(path, json={})
    assert (response.status_code, message_of(response)) == (404, f"{NOTHING} {note}")
    assert "Allow" not in response.headers


@pytest.mark.parametrize(
    "path",
    ["/api/chat", "/api/generate", "/api/tags", "/api/show", "/api/ps", "/api/version", "/api/embed", "/api/tags/"],
)
def test_ollamas_clients_are_told_what_is_spoken_here(client, path):
    """They ask for its list of models first, and add nothing to their base URL that tells of a protocol."""
    said = f"{NOTHING} This service speaks OpenAI's protocol under /v1, and not Ollama's."
    for response in (client.get(path), client.post(path, json={})):
        assert (response.status_code, message_of(response)) == (404, said)


def test_a_response_takes_the_methods_that_it_has(client):
    """Others are refused with 405, and named."""
    response = client.post("/v1/responses/resp_1", json={})
    assert (response.status_code, response.headers["Allow"]) == (405, "DELETE, GET, HEAD, OPTIONS")
