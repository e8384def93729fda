"""Which checkpoint answered: in the bodies, headers and lists of the protocols that say so."""

import json
import re

import pytest

from engine.types import ModelIdentity
from models import ModelSet
from tests.fakes import ScriptedBackend

IDENTITY = ModelIdentity("AvitoTech/avibe", "a" * 64, "c" * 40, "float16", "fp_0123456789ab")
CHECKPOINT = {
    "name": "AvitoTech/avibe", "hash": f"sha256:{'a' * 64}", "revision": "c" * 40, "dtype": "float16",
}  # fmt: skip


@pytest.fixture
def models():
    """An Avibe whose checkpoint is known, and an Avision that is not loaded."""
    return ModelSet({"avibe": ScriptedBackend(identity=IDENTITY), "avision": ScriptedBackend("avision")})


CHAT = {"model": "avibe", "messages": [{"role": "user", "content": "x"}]}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "avibe", "prompt": "x"},
    "/v1/responses": {"model": "avibe", "input": "x"},
    "/v1/messages": CHAT | {"max_tokens": 5},
    "/api/v1/text/generate": {"prompt": "x"},
    "/api/v1/text/batch": {"prompts": ["x"]},
}


@pytest.mark.parametrize("path", BODIES)
def test_every_answer_has_the_fingerprint_in_its_headers(client, path):
    """Whatever the protocol."""
    response = client.post(path, json=BODIES[path])
    assert response.status_code == 200
    assert response.headers["X-Model-Fingerprint"] == IDENTITY.fingerprint


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_bodies_and_events_have_the_fingerprint(client, path):
    """`system_fingerprint` stands in the whole body and in each event of a stream."""
    assert client.post(path, json=BODIES[path]).get_json()["system_fingerprint"] == IDENTITY.fingerprint
    stream = BODIES[path] | {"stream": True, "stream_options": {"include_usage": True}}
    lines = client.post(path, json=stream).get_data(as_text=True).splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert len(events) > 2
    assert {event["system_fingerprint"] for event in events} == {IDENTITY.fingerprint}


def test_the_list_names_the_checkpoint_once_it_is_loaded(client):
    """The list and the entry of one model, and readiness; nothing of a model that is not loaded."""
    listed = {entry["id"]: entry for entry in client.get("/v1/models").get_json()["data"]}
    assert listed["avibe"]["checkpoint"] == CHECKPOINT
    assert listed["avibe"]["system_fingerprint"] == IDENTITY.fingerprint
    assert client.get("/v1/models/avibe").get_json() == listed["avibe"]
    assert "checkpoint" not in listed["avision"]
    ready = client.get("/api/health/ready").get_json()["models"]
    assert (ready["avibe"]["checkpoint"], ready["avibe"]["system_fingerprint"]) == (CHECKPOINT, IDENTITY.fingerprint)
    assert "checkpoint" not in ready["avision"]


def test_the_metrics_name_the_checkpoint(client):
    """One series for each loaded model."""
    lines = [line for line in client.get("/metrics").get_data(as_text=True).splitlines() if "model_info{" in line]
    (line,) = lines
    assert 'checkpoint="AvitoTech/avibe"' in line
    assert 'fingerprint="fp_0123456789ab"' in line
    assert f'revision="{"c" * 40}"' in line


def test_the_operators_page_shows_the_checkpoints(client):
    """The table of the models has the checkpoint, and how many answers it gave."""
    client.post("/v1/chat/completions", json=CHAT)
    page = client.get("/status", environ_base={"REMOTE_ADDR": "127.0.0.1"}).get_data(as_text=True)
    assert "<td>AvitoTech/avibe</td>" in page
    assert "<td>fp_0123456789ab</td>" in page
    assert re.search(r'<td>fp_0123456789ab</td>.*?<td class="figure">1</td>', page, re.DOTALL)
