"""With affinity, nginx and HAProxy send a conversation to the same copy, and others to the others.

A copy that misses a check of its health, as on a busy machine, loses what is its own for a while: so each is tried
until all copies are there. Without affinity none of it comes about, however often it is tried.
"""

from contextlib import ExitStack

import pytest

from tests.deploy.numbered import Numbered
from tests.deploy.proxies import HAProxy, Nginx, render
from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.needs("openssl")

CHAT = "/v1/chat/completions"
AFFINITY = {
    "nginx": {"least_conn;": "hash $avito_ai_affinity consistent;"},
    "haproxy": {"presetenv BALANCE leastconn": 'presetenv BALANCE "hash var(txn.affinity)"'},
}
KINDS = [pytest.param(kind, id=kind.name, marks=pytest.mark.needs(kind.name)) for kind in (Nginx, HAProxy)]


@pytest.fixture(scope="module")
def copies():
    """Three servers that answer with their number."""
    with ExitStack() as stack:
        yield [stack.enter_context(Numbered(number)) for number in range(3)]


@pytest.fixture(scope="module", params=KINDS)
def proxy(request, copies, tmp_path_factory):
    """Each proxy in front of them, with affinity."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind.name)
    with kind(folder, [copy.port for copy in copies], AFFINITY[kind.name]) as proxy:
        yield proxy


def copy_of(proxy, **headers):
    """Return the number of the copy that answered a chat with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response, body = proxy.ask(CHAT, {"model": "avibe", "messages": []}, headers=named)
    assert response.status == 200, body
    return body.decode()


@pytest.mark.parametrize("header", ["X_Conversation_ID", "Authorization", "X_Api_Key"])
def test_what_is_one_conversation_or_client_stays_at_one_copy(proxy, header):
    """The copy is the same for the same header, and all copies serve some."""

    def places():
        values = range(25)  # copies that took turns would not take the same ones again
        return [copy_of(proxy, **{header: f"Bearer {value}"}) for value in values]

    until(lambda: set(first := places()) == {"0", "1", "2"} and first == places())


def test_conversations_of_one_client_are_divided(proxy):
    """Where a program names its conversations, its key does not hold them all at one copy."""

    def places():
        return {copy_of(proxy, Authorization="Bearer one", X_Conversation_ID=str(number)) for number in range(24)}

    until(lambda: places() == {"0", "1", "2"})


def test_an_address_stays_at_one_copy(proxy):
    """A client without a key is known by its address."""
    until(lambda: len({copy_of(proxy) for _ in range(12)}) == 1)


def test_affinity_is_asked_of_render_by_a_variable():
    """AFFINITY=yes hashes; without it the copy with the fewest requests is taken."""
    site = ("site", "ai.example", "/c.pem", "/k.pem", "8085", "8086")
    assert "hash $avito_ai_affinity consistent;" in render(*site, AFFINITY="yes").stdout
    assert "least_conn;" not in render(*site, AFFINITY="yes").stdout
    assert "least_conn;" in render(*site).stdout
