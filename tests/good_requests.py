"""The addresses of the route table, and for each a request that it answers well."""

import uuid

from edge.route_table import ROUTES
from edge.services import services
from keys.registry import Actor
from tests.fakes import image_bytes, multipart

FEEDBACK = "/api/v1/feedback"
TEXT, BATCH = "/api/v1/text/generate", "/api/v1/text/batch"
STORED, KEY_ID, STREAM_ID = "<response_id>", "<key_id>", "<stream_id>"
GENERATIONS = sorted(name.split()[1] for name, row in ROUTES.items() if row.model)

# A request that each route answers well; a new route that reads a body needs one here.
UPLOAD = multipart([("prompt", "Hello"), ("image", (image_bytes(), "a.png"))])
GOOD = {
    "/avibe": {"data": {"prompt": "Hello"}},
    "/avision": UPLOAD,
    "/language": {"data": {"language": "ru", "page": "/"}},
    "/sign-in": {"data": {"key": "a-key-of-a-client"}},
    "/sign-out": {"data": {"csrf_token": ""}},
    "/status/sign-out": {"data": {"csrf_token": ""}},
    "/status/sign-in": {"data": {"key": "a-key-of-an-operator"}},
    TEXT: {"json": {"prompt": "Hello"}},
    FEEDBACK: {"json": {"request_id": "rated", "rating": "up"}},
    "/api/v1/image/analyze": UPLOAD,
    "/v1/chat/completions": {"json": {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}]}},
    "/v1/completions": {"json": {"model": "avibe", "prompt": "Hello"}},
    "/v1/tokenize": {"json": {"model": "avibe", "prompt": "Hello"}},
    "/v1/detokenize": {"json": {"model": "avibe", "tokens": [1, 2]}},
    "/v1/responses": {"json": {"model": "avibe", "input": "Hello"}},
    "/v1/responses/input_tokens": {"json": {"model": "avibe", "input": "Hello"}},
    "/v1/messages": {"json": {"model": "avibe", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}},
    "/v1/messages/count_tokens": {"json": {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}]}},
    BATCH: {"json": {"prompts": ["Hello"]}},
}


def good_request(path):
    """Return a request that the route answers well."""
    if path.startswith("/status/keys"):
        return {"data": {"name": f"key {uuid.uuid4()}"}}  # one of a kind
    return GOOD[path]


def real_path(name, stored="resp_unknown", key="aaaaaaaaaaaa", stream="unknown"):
    """Return an address that a route of the table answers. The rest: ids of a stored response, a key and a stream."""
    path = name.split()[1].replace("<path:filename>", "style.css").replace("<path:model_id>", "avibe")
    return path.replace(STORED, stored).replace(KEY_ID, key).replace(STREAM_ID, stream)


def call(client, name, end="", **extra):
    """Make a good request to a route of the table. end: of the address, behind the route's own."""
    options = good_request(name.split()[1]) if ROUTES[name].bodies else {}
    if name == f"POST {FEEDBACK}":
        headers = {**extra.get("headers", {}), "X-Request-ID": GOOD[FEEDBACK]["json"]["request_id"]}
        client.post(TEXT, **GOOD[TEXT], **{**extra, "headers": headers})
    stored = stored_response(client, **extra) if STORED in name else ""
    stream = kept_stream(client, **extra) if STREAM_ID in name else ""
    path = real_path(name, stored, stored_key(client) if KEY_ID in name else "", stream)
    return client.open(path + end, method=name.split()[0], buffered=True, **options, **extra)


def stored_response(client, **extra):
    """Return the id of a response that is stored for this caller."""
    return client.post("/v1/responses", json=GOOD["/v1/responses"]["json"] | {"store": True}, **extra).json["id"]


def kept_stream(client, **extra):
    """Return the id of a stream that this caller can read again."""
    headers = {**extra.get("headers", {}), "X-Resumable": "1"}
    asked = GOOD[TEXT]["json"] | {"stream": True}
    return client.post(TEXT, json=asked, buffered=True, **{**extra, "headers": headers}).headers["X-Stream-Id"]


def stored_key(client):
    """Return the id of a key in the database of the client's application."""
    return services(client.application).key_registry.make(Actor("tests"), f"key {uuid.uuid4()}")[0].id
