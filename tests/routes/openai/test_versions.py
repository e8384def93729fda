"""Versions and others' names for models, through every protocol that names a model."""

import json

import pytest

from edge.gate import named
from edge.services import services
from engine.types import ModelIdentity, Status
from keys.account import Account
from models import ModelNames, ModelSet
from tests.edge.test_gate import head_of, judge
from tests.fakes import ScriptedBackend

FAILED = {"code": "not_ready", "status": 503}


@pytest.fixture
def environ(environ):
    """Two versions of Avibe, a third of the clients on the second, and names of others."""
    return environ | {
        "VIBE_MODELS": "v1=demo,v2=demo",
        "VIBE_SPLIT": "v2=33",
        "MODEL_ALIASES": "gpt-3.5-turbo=avibe@v1,gpt-4o=avision,new=avibe@v2",
        "TRUSTED_PROXIES": "1",
    }


def version(name):
    identity = ModelIdentity(name, "a" * 64, None, "float32", f"fp_{name}")
    return ScriptedBackend(name, text=f"by {name}", identity=identity)


@pytest.fixture
def models():
    """All ready, each with a fingerprint of its own."""
    return ModelSet({name: version(name) for name in ("avibe", "avision", "avibe@v2")})


MESSAGES = [{"role": "user", "content": "x"}]
GENERATING = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 5},
}
COUNTING = {
    "/v1/tokenize": {"prompt": "x"},
    "/v1/detokenize": {"tokens": [1]},
    "/v1/responses/input_tokens": {"input": "x"},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
}


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize(
    ("asked", "answers", "shown"),
    [
        ("avibe@v1", "avibe", "avibe"),
        ("avibe@v2", "avibe@v2", "avibe@v2"),
        ("new", "avibe@v2", "new"),
        ("gpt-3.5-turbo", "avibe", "gpt-3.5-turbo"),
        ("gpt-4o", "avision", "gpt-4o"),
        ("AvitoTech/avision", "avision", "AvitoTech/avision"),
    ],
)
def test_a_name_chooses_what_answers(client, models, path, asked, answers, shown):
    """The body shows another's name as it was asked for; X-Model and the fingerprint tell what answered."""
    response = client.post(path, json={"model": asked, **GENERATING[path]})
    assert response.status_code == 200
    assert response.get_json()["model"] == shown
    assert response.headers["X-Model"] == answers
    assert response.headers["X-Model-Fingerprint"] == f"fp_{answers}"
    assert [name for name, one in models if one.submitted] == [answers]
    events = client.post(path, json={"model": asked, "stream": True, **GENERATING[path]}).get_data(as_text=True)
    assert f'"model":"{shown}"' in events


@pytest.mark.parametrize("path", COUNTING)
def test_counting_chooses_too(client, models, path):
    """Tokens are those of the version that is named."""
    assert client.post(path, json={"model": "new", **COUNTING[path]}).status_code == 200
    seen = [name for name, one in models if one.tokenized or one.detokenized]
    assert seen == ["avibe@v2"]


@pytest.mark.parametrize("path", [*GENERATING, *COUNTING])
@pytest.mark.parametrize("unknown", ["avibe@v3", "avision@v2", "gpt-4"])
def test_an_unknown_version_is_a_404_of_the_protocol(client, path, unknown):
    """In each protocol's own shape."""
    response = client.post(path, json={"model": unknown, **(GENERATING | COUNTING)[path]})
    assert response.status_code == 404
    error = response.get_json()["error"]
    if path.startswith("/v1/messages"):
        assert (response.get_json()["type"], error["type"]) == ("error", "not_found_error")
    else:
        assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "avibe@v2" in error["message"]


@pytest.mark.parametrize("path", [*GENERATING, *COUNTING])
def test_a_version_that_failed_is_a_503_and_the_others_answer(client, models, path):
    """Readiness stays, and names it."""
    models.get("avibe@v2").become(Status.DEAD, reason="The model could not be loaded.", restart_needed=True)
    body = (GENERATING | COUNTING)[path]
    assert client.post(path, json={"model": "avibe@v2", **body}).status_code == 503
    assert client.post(path, json={"model": "avibe", **body}).status_code == 200
    ready = client.get("/api/health/ready")
    assert ready.status_code == 200
    assert ready.get_json()["models"]["avibe@v2"]["status"] == "dead"
    assert ready.get_json()["models"]["avibe@v2"]["reason"] == "The model could not be loaded."
    assert client.get("/api/health/live").status_code == 200
    assert 'data-status="ready"' in client.get("/").get_data(as_text=True)
    assert "avibe@v2" not in [entry["id"] for entry in client.get("/v1/models").get_json()["data"]]


def asked_by(client, address, path="/v1/completions", body=None):
    body = body or {"model": "avibe", "prompt": "x"}
    return client.post(path, json=body, headers={"X-Forwarded-For": address}).headers["X-Model"]


def test_a_client_keeps_its_version_in_every_api(client):
    """Our own routes, batches and the page name just the model, and share the split."""
    seen = set()
    for number in range(12):
        address = f"10.1.1.{number}"
        mine = {asked_by(client, address) for _ in range(2)}
        mine.add(asked_by(client, address, "/v1/messages", {"model": "AvitoTech/avibe", **GENERATING["/v1/messages"]}))
        mine.add(asked_by(client, address, "/api/v1/text/generate", {"prompt": "x"}))
        mine.add(asked_by(client, address, "/api/v1/text/batch", {"prompts": ["x"]}))
        page = client.post("/avibe", data={"prompt": "x"}, headers={"X-Forwarded-For": address})
        mine.add(page.headers["X-Model"])
        assert len(mine) == 1
        seen |= mine
    assert seen == {"avibe", "avibe@v2"}


def test_the_list_has_every_name(client):
    """Versions and others' names, each with what stands behind it; one can be retrieved by each."""
    listed = {one["id"]: one["root"] for one in client.get("/v1/models").get_json()["data"]}
    assert listed == {
        "avibe": "avibe", "avibe@v1": "avibe", "avibe@v2": "avibe@v2", "avision": "avision",
        "gpt-3.5-turbo": "avibe", "gpt-4o": "avision", "new": "avibe@v2",
    }  # fmt: skip
    for name in (*listed, "AvitoTech/avibe"):
        assert client.get(f"/v1/models/{name}").get_json()["id"] == name
    assert client.get("/v1/models/avibe@v3").status_code == 404


def test_the_description_names_them(client):
    """A client that validates by it may send each name."""
    schemas = client.get("/api/openapi.json").get_json()["components"]["schemas"]
    assert {"avibe", "avibe@v1", "avibe@v2", "avision", "gpt-4o"} <= set(
        schemas["ChatCompletionRequest"]["properties"]["model"]["enum"]
    )


def test_figures_are_by_version_and_of_no_other_name(client):
    """A series for each version, none for a name that a client makes up; JSON adds up what it promised."""
    for asked in ("avibe@v2", "new", "avibe@v1", "made-up", "avibe@v99"):
        client.post("/v1/completions", json={"model": asked, "prompt": "x"})
    text = client.get("/metrics").get_data(as_text=True)
    series = 'avito_ai_requests_total{{model="{}",protocol="openai_completions",status="success"}} {}'
    assert series.format("avibe@v2", "2.0") in text
    assert series.format("avibe", "1.0") in text
    assert "made-up" not in text
    assert "v99" not in text
    assert "gpt-4o" not in text
    figures = client.get("/api/metrics").get_json()
    assert figures["application"]["avibe_requests"] == 3
    assert figures["versions"] == {"avibe": 1, "avision": 0, "avibe@v2": 2}


def test_stored_responses_go_on_with_the_version_that_is_named(client, models):
    """A conversation is text, which another version may go on from; each answers with its own."""
    first = client.post("/v1/responses", json={"model": "avibe@v1", "input": "x", "store": True}).get_json()
    body = {"model": "avibe@v2", "input": "y", "previous_response_id": first["id"]}
    second = client.post("/v1/responses", json=body).get_json()
    assert (first["model"], second["model"]) == ("avibe", "avibe@v2")
    assert second["output"][0]["content"][0]["text"] == "by avibe@v2"
    (told,) = models.get("avibe@v2").submitted
    assert "by avibe" in json.dumps(told.prompt.messages)


def refused(app, asked, address="10.0.0.1"):
    body = json.dumps({"model": asked, "prompt": "x"}).encode()
    head = head_of("/v1/completions", body, {"X-Forwarded-For": address})
    return judge(services(app).gate, head, "127.0.0.1").again(named(body))


@pytest.mark.parametrize("asked", ["avibe@v2", "new"])
def test_the_gate_knows_versions_and_names(app, models, asked):
    """Refused before a thread is taken, by the version that would answer, and by no other."""
    assert refused(app, asked) is None
    models.get("avibe").capacity = 0
    assert refused(app, asked) is None
    assert b"X-Model: avibe\r\n" in refused(app, "avibe@v1")
    models.get("avibe@v2").capacity = 0
    assert b"X-Model: avibe@v2\r\n" in refused(app, asked)


def test_the_gate_judges_by_the_version_that_answers_the_client(app, client, models):
    """A client of the full version is refused, one of the other is let through, on our own routes too."""
    by = {asked_by(client, f"10.1.1.{n}"): f"10.1.1.{n}" for n in range(12)}
    models.get("avibe@v2").capacity = 0
    assert refused(app, "avibe", by["avibe@v2"]) is not None
    assert refused(app, "avibe", by["avibe"]) is None
    own = json.dumps({"prompt": "x"}).encode()
    for name, address in by.items():
        head = head_of("/api/v1/text/generate", own, {"X-Forwarded-For": address})
        assert (judge(services(app).gate, head, "127.0.0.1").refusal is None) == (name == "avibe")


@pytest.mark.parametrize(
    ("allowed", "usable"),
    [
        ({"avibe"}, {"avibe", "avibe@v1", "avibe@v2"}),
        ({"avibe@v2"}, {"avibe@v2"}),
        ({"avibe@v1"}, {"avibe", "avibe@v1"}),
        ({"avision"}, {"avision"}),
    ],
)
def test_a_key_is_for_a_model_or_for_a_version(settings, models, allowed, usable):
    """The model's name allows all its versions, a version's that one."""
    names, account = ModelNames.of(settings), Account("key", models=frozenset(allowed))
    listed = names.listed(models, account.may_use)
    assert {name for name in listed if name not in ("new", "gpt-4o", "gpt-3.5-turbo")} == usable
