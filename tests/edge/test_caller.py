"""The caller: addresses that clients cannot forge, and local callers that proxies cannot imitate."""

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from edge.caller import bearer_key, budget_key, client_address, is_foreign_page, is_forwarded, is_local, key_fits

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
        {"host": "evil@localhost"},
        {"host": "evil:pass@localhost:8085"},
        {"host": "localhost@evil"},
        {"host": "localhost:8085@evil"},
        {"host": "localhost:"},
        {"host": "localhost:x"},
        {"host": "localhost:808500"},
        {"host": "localhost:80:80"},
        {"host": "localhost, example.com"},
        {"host": "example.com, localhost"},
        {"host": "localhost,localhost"},
        {"host": " localhost"},
        {"host": "localhost\t"},
        {"host": "localhost/"},
        {"host": "localhost#"},
        {"host": "localhost?x"},
        {"host": "localhost\\evil"},
        {"host": "//localhost"},
        {"host": "localhost."},
        {"host": "ｌocalhost"},
        {"host": "127.1"},
        {"host": "127.0.0.01"},
        {"host": "127.0.0.2"},
        {"host": "2130706433"},
        {"host": "0x7f.0.0.1"},
        {"host": "::1"},
        {"host": "[::1%lo]"},
        {"host": "[::1%25lo]:8085"},
        {"host": "[::ffff:127.0.0.1]"},
        {"host": "[localhost]"},
        {"host": "[::1]evil"},
        {"Origin": ""},
        {"Origin": "localhost"},
        {"Origin": "http://evil@localhost"},
        {"Origin": "http://localhost@evil"},
        {"Origin": "http://localhost/path"},
        {"Origin": "http://localhost http://evil"},
        {"Origin": "file://localhost"},
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


@pytest.mark.parametrize(
    ("method", "site", "mode", "local"),
    [
        ("POST", "cross-site", "no-cors", False),  # without an Origin, as some settings of browsers have it
        ("POST", "Cross-Site ", "navigate", False),  # a form
        ("GET", "cross-site", "no-cors", False),  # an image or a script
        ("GET", "cross-site", "", False),
        ("GET", "cross-site", "navigate", True),  # a link that somebody follows
        ("HEAD", "cross-site", "navigate", True),
        ("POST", "same-origin", "cors", True),
        ("GET", "none", "navigate", True),  # an address that was typed
    ],
)
def test_what_a_browser_sends_for_another_sites_page_is_not_local(method, site, mode, local):
    """It says so, also where it names no origin; only following a link is the visitor's own act."""
    fields = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Host": "localhost:8085"}
    builder = EnvironBuilder(method=method, headers=fields, environ_base={"REMOTE_ADDR": "127.0.0.1"})
    assert is_local(Request(builder.get_environ())) is local


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
        ("Bearer ", False),
        (f"Basic {KEY}", False),
        (KEY, False),
        ("", False),
    ],
)
def test_the_operators_key_must_be_exactly_it(header, admin):
    """A wrong, foreign or missing key is not the administrator's."""
    request = call()
    request.environ["HTTP_AUTHORIZATION"] = header.encode().decode("latin-1")
    offered = bearer_key(request)
    assert (offered is not None and key_fits(offered, KEY)) is admin


def test_without_a_key_no_caller_is_admin():
    """Without ADMIN_KEY no key matches, an empty one included."""
    assert not key_fits("", None)
    assert not key_fits("", "")


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"Sec_Fetch_Site": "same-origin"}, False),
        ({"Sec_Fetch_Site": "none"}, False),
        ({"Sec_Fetch_Site": "same-site"}, True),
        ({"Sec_Fetch_Site": "cross-site"}, True),
        ({"Sec_Fetch_Site": ""}, True),
        ({"Sec_Fetch_Site": "same-origin, cross-site"}, True),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "http://ai.example:8085"}, True),
        ({"Sec_Fetch_Site": "same-origin", "Origin": "https://other.example"}, False),
        ({"Origin": "http://ai.example:8085"}, False),
        ({"Origin": "http://AI.example:8085"}, False),
        ({"Origin": "http://ai.example:9000"}, True),
        ({"Origin": "http://ai.example"}, True),
        ({"Origin": "https://evil.example"}, True),
        ({"Origin": "http://ai.example:8085.evil.example"}, True),
        ({"Origin": "http://ai.example:8085@evil.example"}, True),
        ({"Origin": "null"}, True),
        ({"Origin": ""}, True),
        ({"host": "ai.example", "Origin": "https://ai.example:8443"}, False),
        ({"host": "ai.example:443", "Origin": "https://ai.example"}, False),
        ({"host": "ai.example:443", "Origin": "http://ai.example"}, True),
        ({"host": "evil@ai.example", "Origin": "http://ai.example"}, True),
        ({"host": "", "Origin": "null"}, True),
    ],
)
def test_a_foreign_page_is_known_by_what_the_browser_says(headers, foreign):
    """Fetch metadata decide, else origin and host; a proxy may take the port from the host; a program is no page."""
    assert is_foreign_page(call(**{"host": "ai.example:8085", **headers}), 0) is foreign


def test_a_proxy_that_renames_the_host_says_what_was_asked_for():
    """X-Forwarded-Host counts where a proxy is trusted, its last entry alone."""
    headers = {"host": "upstream", "Origin": "https://ai.example", "X_Forwarded_Host": "evil.example, ai.example"}
    assert not is_foreign_page(call(**headers), 1)
    assert is_foreign_page(call(**headers), 0)
    assert is_foreign_page(call(**{**headers, "X_Forwarded_Host": "ai.example, upstream"}), 1)
