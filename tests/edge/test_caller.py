"""The caller: addresses that clients cannot forge, and local callers that proxies cannot imitate."""

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from edge.caller import budget_key, client_address, is_admin, is_forwarded, is_local

KEY = "a-key-of-an-operator"


def call(peer="127.0.0.1", host="localhost:8085", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    builder = EnvironBuilder(headers={"Host": host, **named}, environ_base={"REMOTE_ADDR": peer})
    return Request(builder.get_environ())


@pytest.mark.parametrize(
    ("forwarded", "trusted", "address"),
    [
        ("9.9.9.9", 0, "10.0.0.1"),
        ("1.1.1.1", 1, "1.1.1.1"),
        ("6.6.6.6, 1.1.1.1", 1, "1.1.1.1"),
        ("6.6.6.6, 1.1.1.1, 10.0.0.2", 2, "1.1.1.1"),
        ("1.1.1.1", 2, "10.0.0.1"),
        ("", 1, "10.0.0.1"),
        ("not an address", 1, "10.0.0.1"),
        ("1.1.1.1:5555", 1, "1.1.1.1"),
        ("[2001:db8::1]:5555", 1, "2001:db8::1"),
        ("[2001:db8::1]", 1, "2001:db8::1"),
        ("2001:DB8:0::1", 1, "2001:db8::1"),
        ("::ffff:1.1.1.1", 1, "1.1.1.1"),
        ("fe80::1%eth0", 1, "fe80::1"),
    ],
)
def test_only_what_trusted_proxies_saw_counts(forwarded, trusted, address):
    """The entry of the outermost trusted proxy, counted from the right; otherwise the socket's peer."""
    headers = {"X_Forwarded_For": forwarded} if forwarded else {}
    assert client_address(call("10.0.0.1", **headers), trusted) == address


def test_several_headers_are_one_list():
    """A client's own entry before the proxy's is ignored."""
    builder = EnvironBuilder(headers=[("X-Forwarded-For", "6.6.6.6, 7.7.7.7, 1.1.1.1")])
    builder.environ_base = {"REMOTE_ADDR": "10.0.0.1"}
    assert client_address(Request(builder.get_environ()), 1) == "1.1.1.1"


def test_a_socket_without_an_address_has_a_name_all_the_same():
    """A Unix socket has no peer address."""
    assert client_address(call(peer=""), 0) == "unknown"


def test_an_ipv6_client_cannot_choose_within_its_network():
    """All addresses of a /64 share one budget."""
    assert budget_key("2001:db8::1") == budget_key("2001:db8::ffff:1") == "2001:db8::/64"
    assert budget_key("2001:db8:0:1::1") != budget_key("2001:db8::1")
    assert budget_key("1.2.3.4") == "1.2.3.4"


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8085", "127.0.0.1:80", "[::1]:8085", "LOCALHOST"])
def test_a_program_on_this_machine_is_local(peer, host):
    """Loopback and a local Host, in any notation."""
    assert is_local(call(peer, host))


@pytest.mark.parametrize(
    "headers",
    [
        {"peer": "10.0.0.1"},
        {"peer": ""},
        {"host": "example.com"},
        {"host": ""},
        {"host": "localhost.example.com"},
        {"host": "[broken"},
        {"Forwarded": "for=1.1.1.1"},
        {"X_Forwarded_For": "127.0.0.1"},
        {"X_Forwarded_Proto": "https"},
        {"X_Forwarded_Anything": ""},
        {"X_Real_IP": "127.0.0.1"},
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Origin": "http://[broken"},
    ],
)
def test_what_came_through_a_proxy_or_a_foreign_page_is_not_local(headers):
    """Loopback is not enough: a local proxy, a rebound name and a remote web page are not local."""
    assert not is_local(call(**headers))


def test_a_page_of_this_machine_is_local():
    """The service's own page on this machine is local."""
    assert is_local(call(Origin="http://127.0.0.1:8085"))


@pytest.mark.parametrize("name", ["x-real-ip", "X-REAL-IP", "forwarded", "x-forwarded-host"])
def test_a_forwarded_header_is_known_in_any_case(name):
    """Header names are case-insensitive."""
    assert is_forwarded(call(**{name: "1"}))


@pytest.mark.parametrize(
    ("header", "admin"),
    [
        (f"Bearer {KEY}", True),
        (f"bearer  {KEY} ", True),
        (f"Bearer {KEY}x", False),
        ("Bearer ключ", False),
        ("Bearer", False),
        (f"Basic {KEY}", False),
        (KEY, False),
        ("", False),
    ],
)
def test_the_operators_key_must_be_exactly_it(header, admin):
    """A wrong, foreign or missing key is not the administrator's."""
    request = call()
    request.environ["HTTP_AUTHORIZATION"] = header.encode().decode("latin-1")
    assert is_admin(request, KEY) is admin


def test_without_a_key_no_caller_is_admin():
    """Without ADMIN_KEY no key matches, an empty one included."""
    assert not is_admin(call(Authorization="Bearer "), None)
    assert not is_admin(call(Authorization="Bearer "), "")
