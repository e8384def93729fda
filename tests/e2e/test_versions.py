"""The real service with the demo as two versions, and a third one in a broken folder."""

import http.client
import json

import pytest
from openai import InternalServerError, NotFoundError, OpenAI

from tests.e2e.demo_service import start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Versions v1, the default, v2, and v3, whose folder holds no model; half of the clients are on v2."""
    broken = tmp_path_factory.mktemp("broken")
    (broken / "config.json").write_text("{")
    settings = {
        "VIBE_MODELS": f"v1=demo,v2=demo,v3={broken}", "VIBE_SPLIT": "v2=50", "TRUSTED_PROXIES": "1",
        "MODEL_ALIASES": "gpt-3.5-turbo=avibe@v2", "MAX_NUM_SEQS": "4", "VIBE_NAME": "ours",
    }  # fmt: skip
    with start(tmp_path_factory.mktemp("versions"), **settings) as process:
        yield process


@pytest.fixture
def client(server):
    key = "none"  # pragma: allowlist secret
    return OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=key, max_retries=0)


def ask(client, model):
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": "hi"}], max_tokens=4
    )
    return raw.parse(), raw.headers["x-model"]


def test_a_broken_version_leaves_the_default_ready(server, client):
    """Readiness names it, its requests get a typed error, and the others answer."""
    status, ready = server.get("/api/health/ready")
    assert (status, ready["status"]) == (200, "ready")
    states = {name: one["status"] for name, one in ready["models"].items()}
    assert states == {"avibe": "ready", "avision": "ready", "avibe@v2": "ready", "avibe@v3": "dead"}
    assert (ready["models"]["avibe"]["version"], ready["models"]["avibe"]["checkpoint"]["name"]) == ("v1", "ours")
    assert "avibe@v3 is left out, and the others serve without it: VIBE_MODELS: v3" in server.log()
    with pytest.raises(InternalServerError) as caught:
        ask(client, "avibe@v3")
    assert caught.value.body["code"] == "not_ready"
    with pytest.raises(NotFoundError):
        ask(client, "avibe@v4")


@pytest.mark.parametrize(
    ("asked", "shown", "answered"),
    [
        ("avibe@v1", "avibe-demo", "avibe-demo"),
        ("avibe@v2", "avibe-demo@v2", "avibe-demo@v2"),
        ("gpt-3.5-turbo", "gpt-3.5-turbo", "avibe-demo@v2"),
    ],
)
def test_a_client_chooses_a_version(server, client, asked, shown, answered):
    """OpenAI's client sees the name that it expects, and what answered; both have a fingerprint."""
    answer, model = ask(client, asked)
    assert (answer.model, model) == (shown, answered)
    assert answer.system_fingerprint.startswith("fp_")
    assert client.models.retrieve(asked).root == answered


def test_clients_are_shared_out_and_keep_their_version(server):
    """By their address, as the trusted proxy tells it."""
    seen = {}
    for number in range(16):
        address = f"10.0.0.{number % 8}"
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = json.dumps({"model": "avibe", "prompt": "x", "max_tokens": 1})
        headers = {"Content-Type": "application/json", "X-Forwarded-For": address}
        connection.request("POST", "/v1/completions", body, headers)
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        assert seen.setdefault(address, response.getheader("X-Model")) == response.getheader("X-Model")
        connection.close()
    assert set(seen.values()) == {"avibe-demo", "avibe-demo@v2"}
