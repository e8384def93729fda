"""A copy that is not ready passes requests on to other copies, through nginx."""

import pytest

from engine.errors import NotReady
from engine.types import Status
from tests.fakes import image_bytes, multipart

KNOWN = {"X-Another-Copy": "yes"}
TEXT = {"json": {"prompt": "Hello"}}
CHAT = {"json": {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}]}}
FORM = {"data": {"prompt": "Hello"}}


@pytest.fixture
def environ():
    """Behind one proxy, with ten requests a minute."""
    return {"TRUSTED_PROXIES": "1"}


@pytest.mark.parametrize(
    ("path", "body"), [("/api/v1/text/generate", TEXT), ("/v1/chat/completions", CHAT), ("/avibe", FORM)]
)
@pytest.mark.parametrize("status", [Status.LOADING, Status.DRAINING, Status.STALLED, Status.DEAD])
def test_request_that_this_copy_cannot_take_is_handed_over_uncharged(client, avibe, path, body, status):
    """The response names nginx's location, and the client's budget is not charged."""
    avibe.become(status)
    answer = client.post(path, headers=KNOWN, **body)
    assert (answer.status_code, answer.headers["X-Accel-Redirect"]) == (503, "@another_copy")
    assert "RateLimit-Remaining" not in answer.headers
    assert avibe.submitted == []
    avibe.become(Status.READY)
    assert client.post(path, headers=KNOWN, **body).headers["RateLimit-Remaining"] == "9"


def test_a_large_image_is_handed_over_unread(client, avision):
    """A copy that is stopping does not decode an image that another one will."""
    avision.become(Status.DRAINING)
    body = multipart([("image", (image_bytes(), "a.png")), ("prompt", "What?")])
    assert client.post("/api/v1/image/analyze", headers=KNOWN, **body).headers["X-Accel-Redirect"] == "@another_copy"
    assert avision.decoded == []


def test_request_that_meets_the_stop_on_its_way_is_handed_over_too(client, avibe):
    """The copy may begin to stop between the first check and the submission."""
    avibe.refusal = NotReady("The model is not ready.", 5)
    assert client.post("/api/v1/text/generate", headers=KNOWN, **TEXT).headers["X-Accel-Redirect"] == "@another_copy"


def test_ready_copy_and_other_routes_hand_nothing_over(client, avibe):
    """A ready copy answers itself, and each copy reports its own state."""
    assert client.post("/api/v1/text/generate", headers=KNOWN, **TEXT).status_code == 200
    avibe.become(Status.LOADING)
    for path in ("/api/health/ready", "/api/health", "/"):
        assert "X-Accel-Redirect" not in client.get(path, headers=KNOWN).headers


def test_a_full_queue_is_no_reason_to_hand_over(client, avibe):
    """An overloaded copy answers itself, since every further copy would charge the client again."""
    avibe.capacity = 0
    answer = client.post("/api/v1/text/generate", headers=KNOWN, **TEXT)
    assert (answer.status_code, answer.json["error"]) == (503, "overloaded")
    assert "X-Accel-Redirect" not in answer.headers


def test_without_other_copies_the_client_gets_the_reason(client, avibe):
    """Without X-Another-Copy the response names no location."""
    avibe.become(Status.LOADING)
    answer = client.post("/api/v1/text/generate", **TEXT)
    assert (answer.status_code, answer.json["error"]) == (503, "not_ready")
    assert "X-Accel-Redirect" not in answer.headers


class TestWithoutAProxy:
    """Without a trusted proxy."""

    @pytest.fixture
    def environ(self):
        return {"TRUSTED_PROXIES": "0"}

    def test_header_of_an_untrusted_client_is_ignored(self, client, avibe):
        """A client cannot make the response name an internal location of nginx."""
        avibe.become(Status.LOADING)
        answer = client.post("/api/v1/text/generate", headers=KNOWN, **TEXT)
        assert "X-Accel-Redirect" not in answer.headers
        assert answer.json["message"] == "The model is not ready."
